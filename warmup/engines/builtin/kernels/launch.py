"""Launch modes of Triton kernels: compiled for the GPU, under Triton's interpreter, or as a torch reference.

Triton decides at *decoration* whether a function is interpreted, from a process-wide knob (by default an
environment variable). So kernels here are plain functions, and `kernel()` decorates them on first use with the
knob set for that instant: no environment variable is needed or left changed, and one process can hold both forms.
Interpreted kernels may use `triton.language` builtins only, not its jitted library functions (`tl.cdiv`, `tl.sum`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

LaunchMode = Literal["compiled", "interpreted", "reference"]
"""`reference` is torch code, the fast choice on a CPU; `interpreted` runs the kernel's own source there."""


def default_mode(device_type: str) -> LaunchMode:
    """`compiled` where there is a GPU, else the torch reference."""
    if device_type == "cuda":
        return "compiled"
    return "reference"


@functools.cache
def kernel(function: Callable[..., Any], mode: LaunchMode, do_not_specialize: tuple[str, ...] = ()) -> Any:
    """The launchable form of a kernel function: `kernel(f, mode)[grid](...)`.

    `do_not_specialize` names integer arguments whose value must not lead to a compilation of its own.
    """
    import triton

    if mode == "reference":
        raise ValueError(f"{function.__name__}: the torch reference is not a Triton kernel")
    runtime = triton.knobs.runtime
    with runtime.scope():
        # The knob's own type declares the values that its environment variable may have.
        runtime.interpret = mode == "interpreted"
        return triton.jit(function, do_not_specialize=list(do_not_specialize))
