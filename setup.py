"""Builds the C kernel where a compiler is found; without one the package installs all the same and runs on torch."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

KERNELS = Path("src/d90/projections/kernels")
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=off", "-Wno-psabi"]


def compile_kernel(target: Path) -> bool:
    """Compile the kernel to `target`; False, with a line that says why, where that cannot be done."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, *FLAGS, str(KERNELS / "fastfood.c"), "-o", str(target)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        print(f"d90: no C kernel ({why.strip().splitlines()[0]}); projections will run on torch", file=sys.stderr)
        return False
    return True


class BuildWithKernel(build_py):
    """build_py that puts the compiled kernel beside its source, in place for an editable install."""

    def run(self):
        """Compile, then build as usual."""
        super().run()
        folder = KERNELS if self.editable_mode else Path(self.build_lib) / "d90" / "projections" / "kernels"
        compile_kernel(folder / "_fastfood.so")


class BinaryDistribution(Distribution):
    """A wheel with a compiled file belongs to one platform."""

    def has_ext_modules(self):
        """Say so."""
        return True


setup(cmdclass={"build_py": BuildWithKernel}, distclass=BinaryDistribution)
