"""The way of one table's bytes, from the rank that packs it to a rank that loads it, counted while it happens.

A file is on the way if one of its functions takes the bytes of the table as an argument, or gives them back. Files
that pass an artifact or a mapping of blobs on, and do not look at the table, are not. The real tuner runs on the CPU.
The blob passes the border of a process (`actors/processes/process_actor.py`) and `actors/cluster/transfer.py` as in a
run; a dictionary stands for the object store.

Loading reads the file once. A publish reads what it has written, because another run may publish meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import ray

import ray_warmup
from ray_warmup.actors.cluster.transfer import BlobRefs, fetch
from ray_warmup.actors.processes.process_actor import Answering, ProcessActor
from ray_warmup.configs import parse_config
from ray_warmup.warmup.artifact import table as tables
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from tests.lone_rank import pack

ROOT = Path(ray_warmup.__file__).resolve().parents[1]
BUFFERS = (bytes, bytearray, memoryview, pickle.PickleBuffer)
MAX_FILES = 14
"""Files on the way, those of `actors/` included. One that enters must take another one's place."""


class Way:
    """Files through which certain bytes went, and how often a file was read."""

    def __init__(self, table: bytes) -> None:
        self._table = table
        self.files: set[str] = set()
        self.num_reads = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at every call and return of this project's functions."""
        sys.setprofile(self._look)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, value: Any) -> None:
        path = Path(os.path.realpath(frame.f_code.co_filename))
        is_product = path.is_relative_to(ROOT / "warmup") or path.is_relative_to(ROOT / "actors")
        if event not in ("call", "return") or not is_product:
            return
        values = [value] if event == "return" else list(frame.f_locals.values())
        if any(isinstance(found, BUFFERS) and memoryview(found) == self._table for found in values):
            self.files.add(str(path.relative_to(ROOT)))
            is_read = event == "return" and frame.f_code.co_name == "_read_once"
            self.num_reads += is_read


class Border(ProcessActor):
    """The border of a process that was assigned its rank."""

    def __init__(self, process: Answering) -> None:
        self._process = process


def carried(process: Any, digests: tuple[str, ...]) -> Mapping[str, memoryview]:
    """A rank's blobs after their way through the coordinator to another process."""
    border = Border(process)

    async def blob(digest: str) -> Any:
        return border.blob(digest)

    refs = BlobRefs()
    asyncio.run(refs.adopt(SimpleNamespace(blob=SimpleNamespace(remote=blob)), digests))
    return fetch(refs.refs(digests))


def rank_on(node: str, number: int, root: Path) -> RankProcess:
    """A rank of two, after LOOKUP."""
    sections: Mapping[str, Any] = {
        "cluster": {"world_size": 2, "gpus_per_rank": 0},
        "model": {"name": "qwen3-0.6b"},
        "cache": {"root": str(root / node)},
        "autotune": {"max_num_batched_tokens": 1, "max_num_seqs": 1},
    }
    info = RankInfo(number, 2, 0, 1, number, node, number, (), "127.0.0.1", os.getpid())
    rank = RankProcess(info, parse_config(sections), "cpu", lambda backend, options: FlashInferTuner("cpu", options))
    rank.probe()
    rank.look_up(f"token-{number:04d}", retune=True)
    return rank


def test_the_way_of_a_table_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few files handle a table between the leader's pack and the follower's load; the follower parses it once."""
    objects: dict[int, bytes] = {}

    def put(data: pickle.PickleBuffer) -> int:
        objects[len(objects)] = bytes(data)
        return len(objects) - 1

    monkeypatch.setattr(ray, "put", put)
    monkeypatch.setattr(ray, "get", lambda refs: [objects[ref] for ref in refs])
    leader, follower = rank_on("node0", 0, tmp_path), rank_on("node1", 1, tmp_path)
    results = [leader.tune(next(iter(leader.parts.tasks))).result]
    pack(leader, results)
    packed = leader.parts.delivery.artifact
    assert packed is not None
    assert packed.table is not None
    table = bytes(packed.table)
    packing, installing, loading = Way(table), Way(table), Way(table)
    with packing.watched():
        header = pack(leader, results).header
        assert header is not None
        blobs = carried(leader, header.digests)
    tables._parsed.cache_clear()  # the follower is another process
    with installing.watched():
        follower.install(header, blobs)
    with loading.watched():
        loaded = follower.load(header.digest, None, {})
    assert loaded.digest == header.digest
    assert (loading.num_reads, tables._parsed.cache_info().misses) == (1, 1)
    files = packing.files | installing.files | loading.files
    assert {"warmup/device/flashinfer_tuner.py", "warmup/rank/delivery.py", "warmup/store/generations.py"} <= files
    assert {"actors/processes/process_actor.py", "actors/cluster/transfer.py"} <= files
    assert len(files) <= MAX_FILES, sorted(files)
