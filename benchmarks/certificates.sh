#!/usr/bin/env bash
# The certificates of docs/results/, one JSON each; started again, they go on from the store.
# usage: benchmarks/certificates.sh DATA      DATA holds mnist/ (idx files), sst2_sentences/ and mrpc/ (jsonl.gz)
set -euo pipefail
data=$1
results=docs/results
d90=${D90:-d90}

certify() { # name, then what d90 certify takes
    "$d90" certify "${@:2}" --store $results/certify.sqlite --out "$results/certify_$1.json"
}

certify mnist lenet "idx:$data/mnist" --dims 600,400,900 --levels 6,9,4 --epochs 25 --quantise-epochs 15 --batch-size 128
certify mnist_prior lenet "idx:$data/mnist" --dims 100 --levels 3 --epochs 3 --quantise-epochs 2 --batch-size 128 --prior 0.5 --prior-epochs 10
certify sst2_prior minilm "$data/sst2_sentences" --dims 50 --levels 3,5 --epochs 2 --quantise-epochs 1 --prior 0.5
certify sst2 minilm "$data/sst2_sentences" --dims 100,300 --levels 3,5 --epochs 3 --quantise-epochs 2
certify sst2_prior75 minilm "$data/sst2_sentences" --dims 20 --levels 3 --epochs 1 --quantise-epochs 1 --prior 0.75
certify mrpc_prior minilm "$data/mrpc" --dims 20 --levels 3 --epochs 1 --quantise-epochs 1 --prior 0.6 --prior-epochs 4
