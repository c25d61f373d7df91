"""A node store of which one file is damaged: a miss, a named error, or exactly the table that was published."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from random import Random

from ray_warmup.warmup.messages.values import RankEnd
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict
from tests.artifacts import KEY, make_artifact, table_bytes
from tests.fuzz.mutations import damage, reshape

ROWS = [{"task_id": "a@1", "median_s": 1e-6, "runner": "R", "tactic": 3}, {"task_id": "b@1", "tactic": [1, 2]}]
VERDICT = StoredVerdict("r", True, 1.0, ranks=(RankEnd(0, "node", "leader", "ready"),))
SEPARATOR = b"\x00|\x00"


def whole_store() -> bytes:
    """No file is damaged."""
    return str(len(_files())).encode() + SEPARATOR


def store_case(rng: Random, samples: tuple[bytes, ...]) -> bytes:
    """The number of a file of the store, a separator, and its new bytes."""
    files = _files()
    number = rng.randrange(len(files))
    data = files[number][1]
    if data[:1] == b"{" and rng.random() < 0.5:
        data = json.dumps(reshape(json.loads(data), rng)).encode()
    else:
        data = damage(data, rng, (b"{", b"]", b"\x00", b"NaN", b"[[[[[[[[[[[[[[[[[[[[[[", b'"', b"9" * 5000))
    return str(number).encode() + SEPARATOR + data


def read_store(case: bytes, own: Path) -> None:
    """Put the damaged file into a fresh copy of the store and read everything there is."""
    number, _, data = case.partition(SEPARATOR)
    directory = own / "store"
    _fill(directory, int(number), data)
    store = NodeStore(directory)
    found = store.lookup(KEY)
    if found.hit:
        assert found.table == table_bytes(1), "a hit with other bytes than those that were published"
    else:
        assert found.reason, "a miss without a reason"
    assert all(isinstance(row, dict) for row in [*store.load_partial(), *store.load_quarantine()])
    assert isinstance(store.load_verdict(), StoredVerdict | None)
    try:
        artifact, lease = store.load_artifact()
    except FileNotFoundError:
        return  # no generation is current
    lease.release()
    assert artifact.digest == make_artifact(1).digest or not found.hit


def _fill(directory: Path, number: int, data: bytes) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for position, (name, content) in enumerate(_files()):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if position == number else content)


@functools.cache
def _files() -> tuple[tuple[str, bytes], ...]:
    """Every file of a store after one publish, a run's partial results, its quarantine and its verdict."""
    with tempfile.TemporaryDirectory() as scratch:
        store = NodeStore(Path(scratch))
        store.publish(make_artifact(1))
        store.save_partial(ROWS)
        store.save_quarantine([{"runner": "R", "tactic": 3, "environment": {"gpu": "H200"}}])
        store.save_verdict(VERDICT)
        paths = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        return tuple((str(path.relative_to(scratch)), path.read_bytes()) for path in paths)
