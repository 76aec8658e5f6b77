#!/usr/bin/env bash
# All that is measured on a GPU, in six minutes at most: the kernels against torch, the step, forward and adjoint beside the card's copy rate.
# usage: benchmarks/gpu.sh [FOLDER]      writes gpu_test.txt, step_gpu.json and gpu.json there; benchmarks/ by default
# Without a GPU it runs the kernels in Triton's interpreter, where Triton is installed, says so, and measures nothing (exit status 3).
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
python=${PYTHON:-python}
mkdir -p "$out"
cd "$here/.." || exit 1

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    if "$python" -c 'import triton' 2>/dev/null; then
        TRITON_INTERPRET=1 timeout 300 "$python" -m pytest -q tests/projections/test_gpu.py -k "fastfood_equals_torch and 100" | tee "$out/gpu_test.txt" || exit 1
        echo "gpu.sh: torch sees no GPU here, expected one; its kernels ran in Triton's interpreter, and nothing was measured" >&2
    else
        echo "gpu.sh: torch sees no GPU here, expected one, and Triton is not installed to interpret the kernels; nothing was run or measured" >&2
    fi
    exit 3
fi
set -e
timeout 150 "$python" -m pytest -q tests/projections/test_gpu.py | tee "$out/gpu_test.txt"
timeout 120 "$python" benchmarks/step.py --rounds 20 --bf16 --output "$out/step_gpu.json"
timeout 80 "$python" benchmarks/gpu.py --output "$out/gpu.json"
