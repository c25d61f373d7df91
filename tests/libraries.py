"""Real shared libraries for tests, built with gcc in a few milliseconds."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path


def build_library(name: str, path: Path, size: int = 0) -> None:
    """A shared library whose `answer()` is the length of its name, renamed into place like a compiler's output.

    `size`: bytes of random data in it, which no compression makes smaller.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    source = f'int answer(void) {{ return {len(name)}; }}\nconst char *module(void) {{ return "{name}"; }}\n'
    with tempfile.NamedTemporaryFile() as ballast:
        if size:
            ballast.write(os.urandom(size))
            ballast.flush()
            source += f'__asm__(".section .rodata\\n.incbin \\"{ballast.name}\\"\\n.text");\n'
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(unfinished), "-"]
        subprocess.run(command, input=source.encode(), check=True, timeout=30)
    unfinished.replace(path)
