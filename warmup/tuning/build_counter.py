"""Counts what is compiled inside a block: FlashInfer modules and Triton kernels. Cache hits are not counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def counted_builds(*, triton: bool = True) -> Iterator[list[str]]:
    """A list that grows by `flashinfer:<module>` or `triton:<kernel>` for every build in the block.

    FlashInfer asks ninja before it loads a module; that counts only when the library was written anew.
    `triton=False` leaves Triton out where no kernel of it can run, and saves importing it.
    """
    built: list[str] = []
    with _flashinfer(built):
        if not triton:
            yield built
            return
        with _triton(built):
            yield built


@contextmanager
def _flashinfer(built: list[str]) -> Iterator[None]:
    from flashinfer.jit.core import JitSpecNvcc

    original = JitSpecNvcc.build

    def build(spec: Any, *args: Any, **kwargs: Any) -> Any:
        before = _written(spec.jit_library_path)
        result = original(spec, *args, **kwargs)
        if _written(spec.jit_library_path) != before:
            built.append(f"flashinfer:{spec.name}")
        return result

    JitSpecNvcc.build = build
    try:
        yield
    finally:
        JitSpecNvcc.build = original


@contextmanager
def _triton(built: list[str]) -> Iterator[None]:
    from triton import knobs

    previous = knobs.compilation.listener

    def listener(**event: Any) -> None:
        if not event["cache_hit"]:
            built.append(f"triton:{event['metadata'].get('name', 'kernel')}")
        if previous is not None:
            previous(**event)

    knobs.compilation.listener = listener
    try:
        yield
    finally:
        knobs.compilation.listener = previous


def _written(library: Path) -> int | None:
    """Modification time in ns; None where there is no library."""
    return library.stat().st_mtime_ns if library.exists() else None
