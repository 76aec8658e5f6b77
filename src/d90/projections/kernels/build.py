"""Compiles the kernels; standard library only, for setup.py runs it before d90 can be imported."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path

__all__ = ["LIBRARY", "SOURCE", "compile_kernels", "compiler", "source_crc"]

SOURCE = Path(__file__).with_name("d90_kernels.c")
LIBRARY = "libd90_kernels.so"
# Contraction to fma is fixed so that a path computes the same bits whatever the compiler's default.
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno"]


def source_crc() -> int:
    """What a library remembers of its sources, so that a stale one is not used."""
    crc = 0
    for file in sorted((SOURCE, *SOURCE.parent.glob("*.h"))):
        crc = zlib.crc32(file.read_bytes(), zlib.crc32(file.name.encode(), crc))
    return crc


def compiler() -> list[str] | None:
    """The C compiler as a command: $CC, else the first of cc, gcc and clang that exists."""
    wanted = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    commands = (shlex.split(name) for name in wanted)
    return next((command for command in commands if command and shutil.which(command[0])), None)


def compile_kernels(folder: Path) -> str | None:
    """Compile the library into `folder`. Returns None, or in one line why it could not; nothing is raised."""
    command = compiler()
    if command is None:
        return f"no C compiler (CC={os.environ.get('CC', '')!r})"
    target = folder / LIBRARY
    scratch = target.with_suffix(f".{os.getpid()}.tmp")  # a process that has the old file open keeps it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        command += [*FLAGS, f"-DD90_SOURCE={source_crc()}u", str(SOURCE), "-o", str(scratch), "-lm"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if made.returncode:
            return f"{command[0]} failed: {(made.stderr.strip().splitlines() or ['no message'])[0]}"
        scratch.replace(target)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error).splitlines()[0]
    finally:
        scratch.unlink(missing_ok=True)
    return None
