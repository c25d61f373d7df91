"""The tuner that `test_ray_run.py` names: FlashInfer's, but once in the run a kernel writes outside of its memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.tasks import Task, TaskResult
from tests.gpu.stray_write import stray

FLAG = "RAY_WARMUP_TEST_FLAG"
"""Path of a file in the rank's environment; whoever creates it strays."""
BUCKET = 4


class StrayTuner(FlashInferTuner):
    """Strays before the first task of `BUCKET` tokens that any process of the run measures."""

    def tune(self, task: Task) -> TaskResult:
        """Measure one task, perhaps in a context that has just died."""
        if task.bucket == BUCKET:
            try:
                Path(os.environ[FLAG]).open("x").close()
            except FileExistsError:
                pass
            else:
                stray[(1,)](torch.zeros(1, device="cuda"))
        return super().tune(task)
