"""The warmup of a runner, which holds names of the autotuning as its own."""

from __future__ import annotations

import os
from typing import Any

from sglang.srt.model_executor.runner.flashinfer_autotune import run_flashinfer_autotune_forward

CAPTURED = (4, 2, 1)


class BaseRunner:
    """A runner."""

    def __init__(self, model_runner: Any) -> None:
        self.model_runner = model_runner
        self._is_warm = False

    def warmup(self) -> None:
        """Autotune once."""
        if self._is_warm or "FAKE_SGLANG_CALLS" not in os.environ:
            return
        self._is_warm = True
        from tests.engines.barrier_forward import BarrierForward

        mr = self.model_runner
        self._forward = BarrierForward(os.environ["FAKE_SGLANG_CALLS"], mr.tp_rank, mr.server_args.tp_size)
        run_flashinfer_autotune_forward(mr, lambda: self._forward.run(max(CAPTURED)), run_lm_head=False)

    def capture(self) -> None:
        """The forward at every size of a graph."""
        if self._is_warm:
            for tokens in CAPTURED:
                self._forward.run(tokens)
