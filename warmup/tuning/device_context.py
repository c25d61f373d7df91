"""Whether this process' CUDA context is still alive. FlashInfer takes an illegal access for a skipped tactic."""

from __future__ import annotations

import torch

from warmup.errors import DeadContextError


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
