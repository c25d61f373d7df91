"""The monitor that reports kernels which a request has to wait for."""

from __future__ import annotations


def activate(*, mode: str, verbose: bool) -> None:
    """Begin to report."""
