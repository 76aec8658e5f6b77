#!/usr/bin/env bash
# The studies of docs/results/, one line a trial as they go; started again, they go on from the store, and a finished one answers at once.
# usage: benchmarks/studies.sh DATA [mnist|lenet|dense|sst2|spaces|again|mrpc|compare]
# DATA holds mnist/ (idx files), sst2_sentences/ and mrpc/ (jsonl.gz)
set -euo pipefail
data=$1
results=docs/results
d90=${D90:-d90}

images() { # model, start, method's space, further options. Li et al. 2018: global baseline 1.0, and the measured one; unit columns over all D
    local model=$1 start=$2 space=$3
    for baseline in full 1.0; do
        "$d90" measure "$model" "idx:$data/mnist" -m "full@${space}scale=global" --baseline "$baseline" \
            --epochs 20 --batch-size 128 --evaluations 40 --baseline-lr 1e-3 --start "$start" --high 4000 "${@:4}" \
            --store "$results/mnist.sqlite" --log "$results/mnist.jsonl" --page "$results/mnist.html"
    done
}

text() { # task, epochs, method, further options
    "$d90" measure minilm "$data/$1" -m "$3" --epochs "$2" "${@:4}" \
        --store "$results/$1.sqlite" --log "$results/$1.jsonl" --page "$results/$1.html"
}

both() { # task, epochs, further options: DID and SAID, the paper's rule and the gain rule, which needs some hundred times the d
    for structure in did said; do
        text "$1" "$2" "full@structure=$structure" --start 1000 "${@:3}"
        text "$1" "$2" "full@structure=$structure" --rule gain --start 64000 "${@:3}"
    done
}

compare() {
    "$d90" compare minilm "$data/sst2_sentences" --seeds 2 --epochs 2 \
        --methods 'full top:n=2 bitfit lora:r=8 lora:r=4@d=500 full@d=1000,structure=said pafi:fraction=0.005 hiwi:on=bias adapter:kind=houlsby,r=16 adapter:kind=pfeiffer,r=16 preembed:prefix=8' \
        --store "$results/compare.sqlite" --log "$results/compare.jsonl" --page "$results/compare.html"
}

case ${2:-all} in
mnist) for space in "" projection=sparse, projection=fastfood:gaussian,; do images fc 500 "$space"; done ;;
lenet) images lenet 300 "" ;;
dense) images fc 500 projection=dense, --budget 1 ;; # a trial takes some ten minutes
sst2) both sst2_sentences 2 ;;
again) text sst2_sentences 2 full --start 1000 --seed 1000 ;; # the same question with other seeds
spaces) for method in lora:r=8 bitfit pafi:fraction=0.005; do text sst2_sentences 2 "$method" --start 700 --resolution 1.5 --budget 7; done ;;
mrpc) both mrpc 3 ;;
compare) compare ;;
all) for study in mnist lenet dense sst2 again spaces mrpc compare; do "$0" "$data" "$study"; done ;;
esac
