"""Check that this process's CUDA context is alive, since FlashInfer treats an illegal access as a skipped tactic."""

from __future__ import annotations

from contextlib import suppress

import torch

from ray_warmup.warmup.errors import DeadContextError


def is_dead(device: str) -> bool:
    """Return True if nothing runs in this process's CUDA context any more.

    A merely pending error is consumed by the first call.
    """
    if device == "cpu":
        return False
    # The first call may report an error of an earlier kernel that left the context alive.
    with suppress(RuntimeError):
        torch.cuda.synchronize(device)
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def probe_context(device: str, task_id: str) -> None:
    """Raise DeadContextError naming the task if the context died.

    Does nothing on the CPU.
    """
    if device == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeadContextError(
            f"{task_id}: the CUDA context of this process is dead ({error})", task=task_id
        ) from error
