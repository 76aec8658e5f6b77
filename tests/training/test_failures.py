"""What counts as memory exhausted, and what is said where everything failed."""

from __future__ import annotations

import pytest
import torch

from d90.errors import RunFailed, TrainingFailed
from d90.training.failures import all_failed, failed_result, out_of_memory
from d90.training.result import TrialResult


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_exhausted_is_recognised(error: Exception) -> None:
    assert out_of_memory(error)


def test_what_torch_really_says_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[2]' is invalid"), ValueError("out of memory"), KeyError("memory")]
)
def test_other_errors_are_not(error: Exception) -> None:
    assert not out_of_memory(error)


def test_a_failed_run_names_the_rate_and_a_lower_one() -> None:
    results = [TrialResult(0.5, "diverged", steps=steps, lr=10.0) for steps in (7, 3)]
    error = all_failed("every trial of bitfit", results)
    assert isinstance(error, RunFailed)
    assert "not finite, from step 3 on, at learning rate 10." in str(error)
    assert "--lr 1, or --lr auto" in str(error)


def test_memory_is_named_where_nothing_diverged() -> None:
    result = failed_result("CUDA out of memory", 2.0)
    assert result.failed
    error = all_failed("the baseline, full,", [result])
    assert isinstance(error, TrainingFailed)
    assert "memory was exhausted (CUDA out of memory)" in str(error)
    assert "--batch-size" in str(error)
