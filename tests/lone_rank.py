"""One rank without Ray, for the tests of `warmup/rank/`: real store and artifact, the scripted tuner for FlashInfer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.messages.answers import Packed
from ray_warmup.warmup.messages.questions import Guard, Pack
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.messages.wire import from_bytes, to_bytes
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.tasks import GuardVerdict, TaskResult
from tests.fakes import ScriptedTuner

Answer = dict[str, Any]
M = TypeVar("M")


class LoneRank(RankProcess):
    """A probed rank; `described` and `outlined` are what it answered."""

    def __init__(self, info: RankInfo, config: WarmupConfig, script: Answer) -> None:
        super().__init__(info, config, "cpu", lambda backend, options: ScriptedTuner(script))
        self.described, self.outlined = self.probe(), self.outline()

    @property
    def directory(self) -> Path:
        """Its node's store."""
        return Path(self.described.directory)


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
    return [task.task_id for task in process.outlined.tasks]


def tune(process: LoneRank, *, guarded: bool = True) -> tuple[Header, dict[str, Blob]]:
    """Measure and pack everything; the header and the blobs as they would be pushed."""
    results = [process.tune(task).result for task in tasks_of(process)]
    verdicts = [process.guard(Guard(row.task_id, row)).verdict for row in results] if guarded else []
    header = pack(process, results, verdicts, guarded=guarded).header
    assert header is not None
    return header, blobs_of(process, header)


def pack(
    process: RankProcess, results: Iterable[TaskResult], verdicts: Iterable[GuardVerdict] = (), **asked: Any
) -> Packed:
    """What a rank packs as the leader of its class."""
    return process.pack(Pack(tuple(results), tuple(verdicts), **{"strategy": "leader", "guarded": False, **asked}))


def blobs_of(process: RankProcess, header: Header) -> dict[str, Blob]:
    """Everything that a rank has packed."""
    return {digest: bytes(process.blob(digest)) for digest in header.digests}


def traveled(message: M) -> M:
    """A message after a trip to another process."""
    return from_bytes(to_bytes(message), type(message))  # type: ignore[arg-type]
