"""Compiles the projection kernels beside their loader. A machine without a C compiler installs all the same and uses torch."""

import runpy
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

KERNELS = Path("d90/projections/kernels")
SOURCES = Path(__file__).resolve().parent / "src" / KERNELS


class BuildKernels(build_py):
    """Python files as ever, then the library: in the source tree for an editable install, else in the build folder."""

    def run(self) -> None:
        super().run()
        folder = SOURCES if getattr(self, "editable_mode", False) else Path(self.build_lib) / KERNELS
        problem = runpy.run_path(str(SOURCES / "build.py"))["compile_kernels"](folder)
        if problem:
            print(f"d90: kernels not compiled, torch will do their work: {problem}", file=sys.stderr)


class PlatformWheel(bdist_wheel):
    """One wheel per platform: the library knows no Python ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class Binary(Distribution):
    """A distribution that holds machine code, so that its wheel names the platform."""

    def has_ext_modules(self) -> bool:
        return True


setup(distclass=Binary, cmdclass={"build_py": BuildKernels, "bdist_wheel": PlatformWheel})
