"""`python -m d90.projections.kernels` compiles the kernels in place."""

import sys

from d90.projections.kernels.build import LIBRARY, SOURCE, compile_kernels

problem = compile_kernels(SOURCE.parent)
sys.exit(f"kernels not compiled: {problem}" if problem else print(f"compiled {LIBRARY}"))
