"""One rank without Ray, for the tests of `warmup/rank/`: real store and artifact, the scripted tuner for FlashInfer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from tests.fakes import ScriptedTuner

Answer = dict[str, Any]


class LoneRank(RankProcess):
    """A probed rank; `described` is what its probe answered."""

    def __init__(self, info: RankInfo, config: WarmupConfig, script: Answer) -> None:
        super().__init__(info, config, "cpu", lambda backend, options: ScriptedTuner(script))
        self.described = self.probe() | self.outline()

    @property
    def directory(self) -> Path:
        """Its node's store."""
        return Path(self.described["directory"])


RankMaker = Callable[..., LoneRank]


def lone_rank(rank: int, script: Answer, root: Path, **sections: Answer) -> LoneRank:
    """A rank of four on two nodes, two each, with the caches of its node below `root`."""
    given = {"cluster": {"world_size": 4, "gpus_per_rank": 0}, "model": {"name": "qwen3-0.6b"}, **sections}
    given["cache"] = {"root": str(root), **sections.get("cache", {})}
    given["autotune"] = {"max_num_batched_tokens": 2, "max_num_seqs": 2, **sections.get("autotune", {})}
    info = RankInfo(rank, 4, rank % 2, 2, rank // 2, f"node{rank // 2}", rank, (), "127.0.0.1", os.getpid())
    return LoneRank(info, parse_config(given), script)


def tasks_of(process: LoneRank) -> list[str]:
    """Ids of the tasks that the rank listed in its probe."""
    return [task["task_id"] for task in process.described["tasks"]]


def tune(process: LoneRank, *, guarded: bool = True) -> tuple[Answer, dict[str, Blob]]:
    """Measure and pack everything; the header and the blobs as they would be pushed."""
    results = [process.tune(task) for task in tasks_of(process)]
    verdicts = [process.guard(row["task_id"], row) for row in results] if guarded else []
    header = process.pack(results, verdicts, "leader", guarded)
    return header, {blob["sha256"]: bytes(process.blob(blob["sha256"])) for blob in header["blobs"]}


def as_json(value: Answer) -> Answer:
    """What is left of an answer after a trip to another process."""
    back: Answer = json.loads(json.dumps(value))
    return back
