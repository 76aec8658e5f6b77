#!/usr/bin/env bash
# The certificates of docs/results/, one JSON each; started again, they go on from the store.
# usage: benchmarks/certificates.sh DATA [NAME]      all of them, or the one of that name (mnist, qqp_prior, stories, ...)
# DATA holds mnist/ (idx files), sst2_sentences/, qqp/ and mrpc/ (jsonl.gz), wiki/ (txt.gz); stories wants models/stories260k here.
# Each pays for the others on the same examples (--tried): two to five on MNIST, five on SST-2, two on QQP and MRPC: copies are dropped beforehand where
# a prior's part holds some, and what was certified before they were counts as tried.
set -euo pipefail
data=$1
only=${2:-}
results=docs/results
d90=${D90:-d90}
found=

certify() { # name, then what d90 certify takes
    if [ -n "$only" ] && [ "$only" != "$1" ]; then return; fi
    found=yes
    "$d90" certify "${@:2}" --store "$results/$store.sqlite" --out "$results/certify_$1.json"
}

store=certify
certify mnist lenet "idx:$data/mnist" --dims 600,400,900 --levels 6,9,4 --epochs 25 --quantise-epochs 15 --batch-size 128 --tried 2
certify mnist_prior lenet "idx:$data/mnist" --dims 100 --levels 3 --epochs 3 --quantise-epochs 2 --batch-size 128 --prior 0.5 --prior-epochs 10 --tried 2
certify sst2_prior minilm "$data/sst2_sentences" --dims 50 --levels 3,5 --epochs 2 --quantise-epochs 1 --prior 0.5 --tried 5 --copies drop
certify sst2 minilm "$data/sst2_sentences" --dims 100,300 --levels 3 --epochs 3 --quantise-epochs 1 --tried 5
certify sst2_prior75 minilm "$data/sst2_sentences" --dims 20 --levels 3 --epochs 1 --quantise-epochs 1 --prior 0.75 --tried 5 --copies drop
certify qqp_prior minilm "$data/qqp" --dims 20 --levels 3 --epochs 0.5 --quantise-epochs 0.3 --prior 0.5 --prior-epochs 2 --tried 2 --copies drop
certify mrpc_prior minilm "$data/mrpc" --dims 20 --levels 3 --epochs 1 --quantise-epochs 1 --prior 0.6 --prior-epochs 4 --tried 2 --copies drop

store=certify_gaussian
certify mnist_gaussian lenet "idx:$data/mnist" --dims 200 --lr 5e-3 --epochs 2 --quantise-epochs 1 --batch-size 128 --prior 0.75 \
    --prior-epochs 20 --posterior gaussian --passes 8 --tried 4
certify mnist_draw lenet "idx:$data/mnist" --dims 600 --epochs 10 --quantise-epochs 5 --batch-size 128 --posterior draw --tried 5

store=certify_language
certify stories models/stories260k "text:$data/wiki" -m lora:r=4,targets=qv@structure=did --dims 50 --levels 3 --lr 1e-2 --epochs 0.6 \
    --quantise-epochs 0.2 --max-length 64

if [ -z "$found" ]; then
    echo "certificates.sh: no certificate '$only'; expected a name behind 'certify' in this file" >&2
    exit 2
fi
