"""What runs leave beside an artifact: partial results, quarantined tactics, the last verdict, markers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict
from tests.artifacts import KEY_SHA256


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store that is not there yet."""
    return NodeStore(tmp_path / KEY_SHA256)


def test_partial_results_of_several_writers_are_merged(store: NodeStore) -> None:
    """Two jobs save at once; a third reader gets both, the newer of equal tasks; nobody clobbers anybody."""
    first, second = store, NodeStore(store.directory)
    first.save_partial([{"task_id": "a", "t": 1}, {"task_id": "b", "t": 1}])
    path = second.save_partial([{"task_id": "b", "t": 2}])
    os.utime(path, (2e9, 2e9))
    third = NodeStore(store.directory)

    assert third.load_partial() == [{"task_id": "a", "t": 1}, {"task_id": "b", "t": 2}]
    third.clear_partial()
    assert NodeStore(store.directory).load_partial() == []


def test_clearing_spares_what_another_writer_changed(store: NodeStore) -> None:
    """Rows that another job saved after they were loaded stay."""
    other = NodeStore(store.directory)
    other.save_partial([{"task_id": "a"}])
    store.load_partial()
    other.save_partial([{"task_id": "a"}, {"task_id": "b"}])
    store.clear_partial()

    assert len(NodeStore(store.directory).load_partial()) == 2


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"rows": 3}', b'{"rows": [1]}', b"[" * 100_000])
def test_damaged_partial_file_is_left_out(store: NodeStore, data: bytes) -> None:
    """A damaged writer's file costs its own rows only."""
    NodeStore(store.directory).save_partial([{"task_id": "a"}])
    (store.directory / "partial" / "bad.json").write_bytes(data)

    assert store.load_partial() == [{"task_id": "a"}]


VERDICT = StoredVerdict("r", ready=True, ended_at=9.0)


def test_quarantine_and_verdict_survive(store: NodeStore) -> None:
    """Quarantined tactics of all writers and the last verdict are read back; damage is ignored."""
    store.save_quarantine([{"op": "x", "tactic": 3}])
    NodeStore(store.directory).save_quarantine([{"op": "x", "tactic": 3}, {"op": "y", "tactic": 1}])

    assert sorted(row["op"] for row in store.load_quarantine()) == ["x", "y"]
    assert store.load_verdict() is None
    store.save_verdict(VERDICT)
    assert store.load_verdict() == VERDICT
    (store.directory / "verdict.json").write_text("{")
    assert store.load_verdict() is None


@pytest.mark.parametrize(
    "change",
    [
        {"ready": "yes"},
        {"ready": None},
        {"run_id": 7},
        {"ended_at": "now"},
        {"ended_at": True},
        {"ended_at": -1},
        {"ended_at": 1e300},
        {"error": ["x"]},
        {"tables": []},
        {"process": {"pid": "1", "start": None, "host": "h"}},
    ],
)
def test_a_verdict_that_cannot_be_told_is_none(
    store: NodeStore, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """JSON that lacks what `status` and `wait` read, or has it in another form, is ignored by name."""
    store.directory.mkdir(exist_ok=True)
    (store.directory / "verdict.json").write_text(json.dumps(encode(VERDICT) | change))

    assert store.load_verdict() is None
    assert f"verdict.json does not say how a run ended: StoredVerdict: {next(iter(change))}" in caplog.text


def test_marker_is_seen_only_in_the_same_directory(store: NodeStore, tmp_path: Path) -> None:
    """A token that one node wrote is seen through the same directory, not through an equal name elsewhere."""
    token = "token-1234567890"
    store.write_marker(token)

    assert NodeStore(store.directory).sees_marker(token)
    assert not NodeStore(tmp_path / "other").sees_marker(token)
    assert not store.sees_marker("token-other-0000")
    store.remove_marker(token)
    store.remove_marker(token)
    assert not store.sees_marker(token)
    for bad in ("../../etc/passwd", "short", "a" * 200):
        with pytest.raises(StoreError, match="token"):
            store.write_marker(bad)
