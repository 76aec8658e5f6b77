#!/usr/bin/env bash
# The studies of docs/results/, one line a trial as they go; started again, they go on from the store, and a finished one answers at once.
# usage: benchmarks/studies.sh DATA [mnist|lenet|dense|sst2|spaces|once|twice|mrpc|compare|gap|pretrain|trajectory|family|lowdata|analyze] [further options]
# DATA holds mnist/ (idx files), sst2_sentences/, qqp/, cola/ and mrpc/ (jsonl.gz), wiki/ (txt.gz); models pretrained here go to $MINI and $FAMILY, runs/mini and runs/family by default
set -euo pipefail
data=$1
results=docs/results
d90=${D90:-d90}
mini=${MINI:-runs/mini}
family=${FAMILY:-runs/family}

images() { # model, start, method's space, further options. Li et al. 2018: global baseline 1.0, and the measured one; unit columns over all D
    local model=$1 start=$2 space=$3
    for baseline in full 1.0; do
        "$d90" measure "$model" "idx:$data/mnist" -m "full@${space}scale=global" --baseline "$baseline" \
            --epochs 20 --batch-size 128 --evaluations 40 --lr default --baseline-lr 1e-3 --step-rule 1 --start "$start" --high 4000 "${@:4}" \
            --store "$results/mnist.sqlite" --log "$results/mnist.jsonl" --page "$results/mnist.html"
    done
}

text() { # task, epochs, method, further options
    "$d90" measure minilm "$data/$1" -m "$3" --epochs "$2" --lr default "${@:4}" \
        --store "$results/$1.sqlite" --log "$results/$1.jsonl" --page "$results/$1.html"
}

both() { # task, epochs, further options: DID and SAID, the paper's rule and the gain rule, which needs some hundred times the d
    for structure in did said; do
        text "$1" "$2" "full@structure=$structure" --start 1000 "${@:3}"
        text "$1" "$2" "full@structure=$structure" --rule gain --start 64000 "${@:3}"
    done
}

once() { # task, epochs, seed, further options: one of `twice`; several at once may share a store
    "$d90" measure minilm "$data/$1" -m full --lr default --epochs "$2" --seed "$3" --start 1000 --precision fp32 --budget 12 "${@:4}" \
        --store "$results/twice_$1.sqlite" --log "$results/twice_$1.jsonl" --page "$results/twice_$1.html"
}

twice() { # d90 of four tasks, each with two sets of seeds; in fp32, so that a GPU and a processor answer one question
    local seed
    for seed in 0 1000; do
        once sst2_sentences 2 $seed "$@"
        once mrpc 3 $seed "$@"
        once cola 3 $seed --metric matthews "$@"
        once qqp 1 $seed "$@"
    done
}

compare() {
    "$d90" compare minilm "$data/sst2_sentences" --seeds 2 --epochs 2 \
        --methods 'full top:n=2 bitfit lora:r=8 lora:r=4@d=500 full@d=1000,structure=said pafi:fraction=0.005 hiwi:on=bias adapter:kind=pfeiffer,r=16 top:n=1' --no-costs \
        --store "$results/compare.sqlite" --log "$results/compare.jsonl" --page "$results/compare.html"
}

pretrain() { # one long run for its checkpoints, and three widths with one text and as many updates
    local text=("$data/wiki/train.txt.gz" --validation "$data/wiki/validation.txt.gz" --vocabulary 4096 --length 64 --batch-size 32 --lr 3e-3)
    "$d90" pretrain "${text[@]}" --width 128 --steps 4096 --out "$mini/w128" "$@"
    for width in 64 128 192; do
        "$d90" pretrain "${text[@]}" --limit 60000 --width $width --steps 1024 --checkpoints 2 --out "$family/w$width" "$@"
    done
}

# the gain rule: 90 % of the score on QQP lies below what the majority class gets. scale=relative: the default rate is made for minilm, whose matrices are five times as long as those of width 128
search=(--rule gain --start 8000 --resolution 2 --train-limit 7000 --epochs 2 --evaluations 4 --lr default --baseline-lr 1e-3 --step-rule 1)
small=(-m full@scale=relative "${search[@]}" --budget 3)

trajectory() {
    local found=() step
    for step in 0000 0064 0256 0512 1024 4096; do found+=("$mini/w128/step-$step"); done
    "$d90" trajectory "${found[@]}" --tasks "$data/sst2_sentences $data/qqp" --target both "${small[@]}" \
        --store "$results/trajectory.sqlite" --log "$results/trajectory.jsonl" --page "$results/trajectory.html" "$@"
}

spaces() { # d90 of what each method moves, beside full fine-tuning's (sst2): one target
    local method
    for method in bitfit lora:r=8 pafi:fraction=0.005; do
        text sst2_sentences 2 "$method" --start 700 --resolution 2 --budget 4 "$@"
    done
}

family() {
    "$d90" family "$family"/w64/step-1024 "$family"/w128/step-1024 "$family"/w192/step-1024 --tasks "$data/sst2_sentences" --target both "${small[@]}" \
        --store "$results/family.sqlite" --log "$results/family.jsonl" --page "$results/family.html" "$@"
}

lowdata() { # one pass over the examples, but 150 steps at least; three rates a method, and one more seed at the best
    "$d90" lowdata minilm "$data/sst2_sentences" --methods 'full preembed:prefix=8 prelayer:prefix=8 lora:r=8 bitfit' \
        --counts 100,1000,all --seeds 2 --epochs 1 --batch-size 16 --least-steps 150 --evaluations 3 --max-length 64 \
        --store "$results/lowdata.sqlite" --log "$results/lowdata.jsonl" --page "$results/lowdata.html" "$@"
}

analyze() { # LoRA of two ranks, one of them with two seeds, alpha as for the first rank (as the paper has it), and full fine-tuning
    local tunes=${TUNES:-runs/tunes}
    train() { # file, method, further options; one that is there is not trained again
        [ -e "$tunes/$1.d90" ] || "$d90" train minilm "$data/sst2_sentences" -m "$2" --epochs 2 --out "$tunes/$1.d90" "${@:3}"
    }
    train r8 lora:r=8 "$@"
    train r64 lora:r=64,alpha=8 "$@"
    train r64_seed1 lora:r=64,alpha=8 --seed 1 "$@"
    train full full "$@"
    "$d90" analyze "$tunes/r8.d90" "$tunes/r64.d90" --out "$results/analyze_r8_r64.html"
    "$d90" analyze "$tunes/r64.d90" "$tunes/r64_seed1.d90" --out "$results/analyze_two_seeds.html"
    "$d90" analyze "$tunes/full.d90" "$tunes/r8.d90" --out "$results/analyze_full_r8.html"
}

gap() { # d90 against the generalization gap: each tune at d90 of one method trained once more
    "$d90" gap "$results"/{mnist,sst2_sentences,mrpc}.sqlite -m full@structure=did,projection=fastfood, --train -o "$results/gap.html" "$@"
}

case ${2:-all} in
mnist) for space in "" projection=sparse, projection=fastfood:gaussian,; do images fc 500 "$space"; done ;;
lenet) images lenet 300 "" ;;
dense) images fc 500 projection=dense, --budget 1 ;; # a trial takes some ten minutes
sst2) both sst2_sentences 2 ;;
mrpc) both mrpc 3 ;;
compare) compare ;;
once | twice | spaces | gap | pretrain | trajectory | family | lowdata | analyze) "$2" "${@:3}" ;;
all) for study in mnist lenet dense sst2 twice spaces mrpc compare gap pretrain trajectory family lowdata analyze; do "$0" "$data" "$study"; done ;;
esac
