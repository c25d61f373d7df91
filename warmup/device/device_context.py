"""Whether this process' CUDA context is still alive. FlashInfer takes an illegal access for a skipped tactic."""

from __future__ import annotations

from contextlib import suppress

import torch

from ray_warmup.warmup.errors import DeadContextError


def is_dead(device: str) -> bool:
    """Whether nothing runs in this process' CUDA context any more. An error that is only pending is reported once."""
    if device == "cpu":
        return False
    with suppress(RuntimeError):
        torch.cuda.synchronize(device)
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def probe_context(device: str, task_id: str) -> None:
    """Raise DeadContextError naming the task when the context died; nothing to do on the CPU."""
    if device == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeadContextError(
            f"{task_id}: the CUDA context of this process is dead ({error})", task=task_id
        ) from error
