"""How far is a projection from the memory it must touch?

    forward   theta_0 + P theta    floor: read 4 and write 4 bytes for each parameter
    adjoint   P^T g                floor: read 4 bytes for each parameter

Floors and projections are timed in turn, in one process on the same buffers and threads, and medians are compared. The
floors are plain C loops, with ordinary or streaming stores, whichever is faster. Dense has d entries for each parameter, so
no such floor; it is timed for the two networks of Li et al. 2018 on MNIST, and beside torch's product with a kept matrix.

The result, projection.json (a list, an entry a machine), is written line by line, with the machine's load beside each:
where other jobs run, neither times nor ratios mean much, and `--clock cpu` compares the least processor times of one
thread instead. Lines that are not measured again stay.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from machine import beside, processor, save

from d90.projections import build, dense, kernels
from d90.projections.base import Target
from d90.projections.kernels.build import compiler

FLOOR = """
#include <stdint.h>
typedef float wide __attribute__((vector_size(BYTES)));
typedef struct { const float *from; float *to; int64_t n, next; int kind; double sum; } job_t;
enum { PART = 1 << 16, LANES = BYTES / 4, UNROLLED = 8 };
static void work(void *data) {
    job_t *job = data;
    wide sum[UNROLLED] = {{0}};
    for (int64_t at; (at = __atomic_fetch_add(&job->next, PART, __ATOMIC_RELAXED)) < job->n;) {
        int64_t end = at + PART < job->n ? at + PART : job->n;
        const float *from = job->from + at, *last = job->from + end - UNROLLED * LANES;
        float *to = job->to + at;
        for (; from <= last; from += UNROLLED * LANES, to += UNROLLED * LANES)
#pragma GCC unroll 8
            for (int i = 0; i < UNROLLED; i++) {
                __builtin_prefetch(from + 512 + i * LANES);
                wide x = *(const wide *)(from + i * LANES);
                if (job->kind == 0) sum[i] += x;
                else if (job->kind == 1) *(wide *)(to + i * LANES) = x;
                else STREAM(to + i * LANES, x);
            }
    }
    FENCE;
    for (int i = 1; i < UNROLLED; i++) sum[0] += sum[i];
    volatile float keep = sum[0][0];
    (void)keep;
}
typedef void (*parallel_fn)(void (*)(void *), void *, unsigned, unsigned);
void floor_run(parallel_fn parallel, int threads, const float *from, float *to, int64_t n, int kind) {
    job_t job = {from, to, n, 0, kind, 0};
    if (parallel) parallel(work, &job, threads, 0); else work(&job);
}
"""
X86 = """
#include <immintrin.h>
#ifdef __AVX512F__
#define BYTES 64
#define STREAM(p, x) _mm512_stream_ps(p, (__m512)(x))
#elif defined(__AVX__)
#define BYTES 32
#define STREAM(p, x) _mm256_stream_ps(p, (__m256)(x))
#else
#define BYTES 16
#define STREAM(p, x) _mm_stream_ps(p, (__m128)(x))
#endif
#define FENCE _mm_sfence()
"""
OTHER = "#define BYTES 16\n#define STREAM(p, x) (*(wide *)(p) = (x))\n#define FENCE\n"
SIZES = (23_000_000, 110_000_000, 355_000_000)
DIMENSIONS = (200, 1000, 10_000, 100_000)
DENSE = ((60_000, 300), (270_000, 700))  # D, d: LeNet, and the fully connected network
WAYS = ("dense:sign", "dense:gaussian", "dense:gaussian, drawn again", "dense:sign, torch", "dense:gaussian, torch")
KEY = ("projection", "D", "d")
COLUMNS = {  # of the table printed, with their widths
    "forward_ms": 10,
    "copy_ms": 9,
    "forward_over_floor": 7,
    "adjoint_ms": 10,
    "read_ms": 9,
    "adjoint_over_floor": 7,
}


def floor_library(folder: str) -> Callable[..., None]:
    """Compile the floors."""
    source, target = Path(folder) / "floor.c", Path(folder) / "floor.so"
    source.write_text((X86 if platform.machine() == "x86_64" else OTHER) + FLOOR)
    command = [
        *(compiler() or ["cc"]),
        "-O3",
        "-march=native",
        "-fPIC",
        "-shared",
        "-w",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(target)).floor_run
    pointer = ctypes.c_void_p
    function.argtypes = [pointer, ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int]
    function.restype = None
    return function


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def times_of(runs: dict[str, Callable[[], object]], seconds: float, clock: str) -> dict[str, float]:
    """Milliseconds of each, taken in turn until the time is spent (5 rounds at least): medians by the wall, least by the processor."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    now, began = CLOCKS[clock], time.perf_counter()
    while len(times["read"]) < 6 or time.perf_counter() - began < seconds:
        for name, run in runs.items():
            start = now()
            run()
            times[name].append(now() - start)
    one = statistics.median if clock == "wall" else min
    return {name: 1e3 * one(values[1:]) for name, values in times.items()}  # the first warms up


@contextmanager
def way(how: str) -> Iterator[None]:
    """Dense as it is, with nothing kept ("drawn again"), or on torch."""
    kept = dense.CACHE_BYTES
    dense.CACHE_BYTES = 0 if how == "drawn again" else kept
    try:
        with kernels.forced("torch" if how == "torch" else kernels.active()):
            yield
    finally:
        dense.CACHE_BYTES = kept


def measure(spec: str, D: int, d: int, floor: Callable[..., None], seconds: float, clock: str) -> dict[str, object]:
    """One line of the table."""
    name, _, how = spec.partition(", ")
    with way(how):
        return timed(name, D, d, floor, seconds, clock) | {"projection": spec}


def timed(spec: str, D: int, d: int, floor: Callable[..., None], seconds: float, clock: str) -> dict[str, object]:
    base, out = torch.randn(D), torch.empty(D)
    projection = build(spec, d, D, seed=1)
    z, gradient = projection.prepare(torch.randn(d)), projection.new_z_gradient()
    pool, threads = kernels._thread_pool(), torch.get_num_threads()

    def touch(kind: int) -> Callable[[], None]:
        return lambda: floor(pool, threads, base.data_ptr(), out.data_ptr(), D, kind)

    took = times_of(
        {
            "read": touch(0),
            "copy": touch(1),
            "copy, streamed": touch(2),
            "forward": lambda: projection.write([Target(0, base, 0.5, z, out)]),
            "adjoint": lambda: projection.fold_segment(base, 0, gradient),
        },
        seconds,
        clock,
    )
    line: dict[str, object] = {"projection": spec, "D": D, "d": d}
    line |= {"forward_ms": round(took["forward"], 2), "adjoint_ms": round(took["adjoint"], 2)}
    if not spec.startswith("dense"):
        copy = min(took["copy"], took["copy, streamed"])
        line |= {"copy_ms": round(copy, 2), "read_ms": round(took["read"], 2)}
        line |= {"forward_over_floor": round(took["forward"] / copy, 2)}
        line |= {"adjoint_over_floor": round(took["adjoint"] / took["read"], 2)}
    return line | {"load": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="values of D")
    parser.add_argument("--dimensions", type=int, nargs="+", default=DIMENSIONS, help="values of d")
    parser.add_argument(
        "--projections", nargs="+", default=["fastfood:sign", "fastfood:gaussian", "onehot:sign", "dense"]
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the least processor time, for a busy machine; one thread"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    if arguments.clock == "cpu":
        arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    machine: dict[str, object] = {"processor": processor(), "threads": arguments.threads, "path": kernels.active()}
    machine["clock"] = arguments.clock
    shapes = [(D, d) for D in map(int, arguments.sizes) for d in arguments.dimensions]
    runs = [
        (spec, *shape)
        for name in arguments.projections
        for shape in (DENSE if name == "dense" else shapes)
        for spec in (WAYS if name == "dense" else (name,))
    ]
    lines: list[dict[str, object]] = []
    print(f"{processor()}, {arguments.threads} threads, path {kernels.active()}")
    print(
        f"{'':28}{'D':>10}{'d':>8}{'forward':>10}{'floor':>9}{'ratio':>7}{'adjoint':>10}{'floor':>9}{'ratio':>7}   (ms)"
    )
    with tempfile.TemporaryDirectory() as folder:
        floor = floor_library(folder)
        for spec, D, d in runs:
            lines.append(line := measure(spec, D, d, floor, arguments.seconds, arguments.clock))
            cells = "".join(f"{line.get(key, ''):>{width}}" for key, width in COLUMNS.items())
            print(f"{spec:28}{D:>10.2e}{d:>8}{cells}", flush=True)
            save(arguments.output, beside(arguments.output, machine | {"lines": lines}, KEY))


if __name__ == "__main__":
    main()
