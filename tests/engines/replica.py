"""Starts a replica of `fake_replica.py` under a tuning session, as a launcher does, until one start reaches its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.configs import parse_config
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.outcome import TunedRequests, outcome_of
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.engines.tuning.starts import until_tuned
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.tasks import TacticId
from tests.artifacts import ROOT

DEADLINE_S = 170.0


@dataclass
class Life:
    """One replica's life under a session."""

    outcome: TunedRequests
    told: list[dict[str, object]]
    """What each rank served and looked up in its second forward."""
    starts: int
    quarantine: set[TacticId]
    measured: dict[str, int] = field(default_factory=dict)
    """Class -> tasks that were measured and not taken over."""
    ranks_of: dict[str, set[int]] = field(default_factory=dict)
    """Class -> ranks that measured for it."""


def options(strategy: str = "sharded", **timeouts: float) -> TuningOptions:
    """Settings for a few small tasks on a processor."""
    config = parse_config(
        {
            "cluster": {"world_size": 1, "backend": "cpu"},
            "model": {"name": "llama-3.1-8b"},
            "autotune": {"strategy": strategy, "shortlist": 4},
            "guard": {"rounds": 3},
            "timeouts": {"heartbeat": 0.5, **timeouts},
        }
    )
    return TuningOptions(config.autotune, config.guard, config.timeouts)


def live(directory: Path, root: Path, world_size: int, fault: str = "none", asked: TuningOptions | None = None) -> Life:
    """Run a replica to its end. Raises EngineError."""
    directory.mkdir(parents=True, exist_ok=True)
    with TuningSession(world_size, asked or options(), root) as session:
        until_tuned(session, lambda: start(session, directory, world_size, fault))
        groups = session.conductor.classes.values()
        life = Life(
            outcome_of(session.conductor),
            [json.loads((directory / f"told_{rank}.json").read_text()) for rank in range(world_size)],
            len(list(directory.glob("start_*"))),
            {tactic for group in groups for tactic in group.quarantine},
            {group.parts["recording"]: group.measured for group in groups},
            {group.parts["recording"]: {row.rank for row in group.results.values()} for group in groups},
        )
        session.forget_finished()
    return life


def start(session: TuningSession, directory: Path, world_size: int, fault: str) -> None:
    """One start of every rank. Raises EngineError where a rank fails or the session ends it."""
    number = len(list(directory.glob("start_*"))) + 1
    (directory / f"start_{number}").mkdir()
    environ = {**os.environ, **session.variables(directory), "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    words = [sys.executable, "-m", "tests.engines.fake_replica"]
    log = (directory / f"log_{number}").open("wb")
    children = [
        subprocess.Popen([*words, str(rank), str(world_size), str(directory), fault], env=environ, stderr=log)
        for rank in range(world_size)
    ]
    try:
        deadline = time.monotonic() + DEADLINE_S
        while any(child.poll() is None for child in children):
            if reason := session.reason_to_end:
                raise EngineError(reason)
            if time.monotonic() > deadline:
                raise EngineError(f"the replica did not end within {DEADLINE_S:g} s; it was at {session.stage}")
            time.sleep(0.05)
        if any(child.returncode for child in children):
            text = (directory / f"log_{number}").read_text()[-2000:]
            raise EngineError(f"ranks ended with {[child.returncode for child in children]}: {text}")
    finally:
        for child in children:
            child.kill()
            child.wait()
        log.close()
