#!/usr/bin/env bash
# The studies of docs/results/, one line a trial as they go; started again, they go on from the store.
# usage: benchmarks/studies.sh DATA [mnist|dense|sst2|mrpc]   DATA holds mnist/ (idx files), sst2_sentences/ and mrpc/ (jsonl.gz)
set -euo pipefail
data=$1
results=docs/results
d90=${D90:-d90}

mnist() { # Li et al. 2018: 784-200-200-10, unit columns over all D; global baseline 1.0, then the measured one
    for projection in "${@:1:$#-1}"; do
        for baseline in 1.0 full; do
            "$d90" measure fc "idx:$data/mnist" -m "full@projection=$projection,scale=global" --baseline "$baseline" \
                --epochs 20 --batch-size 128 --evaluations 40 --baseline-lr 1e-3 --start 500 --high "${!#}" --resolution 1.1 \
                --store "$results/mnist.sqlite" --log "$results/mnist.jsonl" --page "$results/mnist.html"
        done
    done
}

text() { # task, epochs; the gain rule needs some hundred times the d, so its bracket starts there
    for rule in paper gain; do
        start=1000; if [ "$rule" = gain ]; then start=64000; fi
        for structure in did said; do
            "$d90" measure minilm "$data/$1" -m "full@structure=$structure" --rule "$rule" --epochs "$2" --evaluations 6 \
                --start "$start" --resolution 1.5 --store "$results/$1.sqlite" --log "$results/$1.jsonl" --page "$results/$1.html"
        done
    done
}

case ${2:-all} in
mnist) mnist fastfood sparse 4000 ;;
dense) mnist dense 1000 ;;
sst2) text sst2_sentences 2 ;;
mrpc) text mrpc 3 ;;
all) for study in mnist dense sst2 mrpc; do "$0" "$data" "$study"; done ;;
esac
