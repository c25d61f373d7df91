"""A Ray Serve application on the built-in engine: HTTP `/generate`, ready only when warm.

    serve run tests.engines.serve_app:application

`POST /generate {"tokens": [1, 2, 3], "max_tokens": 4}` answers with the generated tokens, greedily.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from starlette.requests import Request

from ray_warmup.actors.warm_replica import WarmReplica
from ray_warmup.configs import WarmupConfig
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER
from ray_warmup.warmup.rank.in_process_run import Elsewhere, Hooks, InProcessRun
from ray_warmup.warmup.ranks import RankInfo
from tests.engines.tiny_engine import Engine, tiny_config


@serve.deployment(max_ongoing_requests=2)
class Generate(WarmReplica):
    """One replica."""

    def __init__(self, config: WarmupConfig) -> None:
        super().__init__(config)
        self._engine = Engine()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer `/generate`; anything else tells how this replica became warm."""
        if request.url.path.rstrip("/").endswith("generate"):
            asked = await request.json()
            return {"tokens": self._engine.generate(asked["tokens"], asked["max_tokens"]), **self._warmth()}
        return self._warmth()

    async def check_health(self) -> None:
        """Serve asks every ten seconds."""
        assert self.warmup.ready

    def _warmth(self) -> dict[str, Any]:
        measured = sum(row.measured for row in self.warmup.classes)
        return {"pid": os.getpid(), "ready": self.warmup.ready, "measured": measured}


@serve.deployment(max_ongoing_requests=2)
class Alone:
    """The same engine without a warmup before it: Serve calls it ready at once, and its first request tunes."""

    def __init__(self, config: WarmupConfig) -> None:
        self._config = config
        self._engine = Engine()
        self._is_tuned = False

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer `/generate`."""
        asked = await request.json()
        if not self._is_tuned:
            self._tune()
        return {"tokens": self._engine.generate(asked["tokens"], asked["max_tokens"]), "pid": os.getpid()}

    def _tune(self) -> None:
        """Measure in this process what a warm replica loads, and ask nobody."""
        info = RankInfo(0, 1, 0, 1, 0, "", 0)
        hooks = Hooks(lambda process: Elsewhere(), lambda phase, task: None, lambda artifact: None)
        report = InProcessRun(self._config, info, "cpu", FLASHINFER_TUNER, "", hooks).run()
        assert report.ready, report.error
        self._is_tuned = True


application = Generate.bind(tiny_config())
