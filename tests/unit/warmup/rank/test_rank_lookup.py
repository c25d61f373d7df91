"""What a rank finds on its node: tables, finished tasks, markers; what is broken there is a miss or left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import Content, pack, table_content
from ray_warmup.warmup.cache_admin.store_verification import verify_store
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.messages.answers import Compiled, Markers
from ray_warmup.warmup.messages.wire import to_bytes
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import TacticId, TaskResult
from tests.lone_rank import LoneRank, RankMaker, tasks_of, traveled, tune


def test_finished_tasks_are_found_again(make_rank: RankMaker) -> None:
    """A rank that stopped half-way leaves its finished tasks; the next lookup has them, `retune` does not."""
    process = make_rank(1)
    done = [process.tune(task).result for task in tasks_of(process)[:3]]
    assert finished(make_rank(0)) == done
    assert finished(make_rank(0), retune=True) == []
    process.install(*tune(process))
    assert finished(make_rank(0)) == []


def finished(rank: LoneRank, *, retune: bool = False) -> list[TaskResult]:
    """What a rank finds of earlier runs, after it has said how much that is."""
    said = rank.look_up("run-00000", retune=retune).finished
    rows = list(traveled(rank.recall_finished()).results)
    assert said.count == len(rows)
    return rows


def test_what_lookup_answers_does_not_grow_with_the_tasks(make_rank: RankMaker) -> None:
    """Digests only, on a hit and with finished tasks; equal rows have equal digests, and the rows are asked for."""
    process, other = make_rank(0), make_rank(2)
    header, blobs = tune(process)
    for rank in (process, other):
        rank.install(header, blobs)
    answers = [make_rank(rank).look_up(f"run-0000{rank}", retune=False) for rank in (1, 3)]
    assert [(a.table.digest, a.table.artifact) for a in answers] == [(header.digest, header.artifact)] * 2
    assert all(len(to_bytes(answer)) < 1500 for answer in answers)
    again = make_rank(1)
    again.look_up("run-00001", retune=False)
    rows = again.recall_table()
    assert [row.task_id for row in rows.results] == tasks_of(process)
    assert (rows.header.digest, len(rows.verdicts)) == (header.digest, len(rows.results))


def test_broken_partial_rows_are_left_out(make_rank: RankMaker) -> None:
    """Rows of other tasks, and rows that are no results, are measured again instead of believed."""
    process = make_rank(1)
    good = encode(process.tune(tasks_of(process)[0]).result)
    bad = [{"task_id": tasks_of(process)[1]}, {"task_id": "of another model"}, {**good, "task_id": 7}]
    lies = {**good, "task_id": tasks_of(process)[2], "outcome": "excellent"}
    partial = process.directory / "partial"
    (file,) = partial.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "rows": [good, *bad, lies]}))
    found = finished(make_rank(0))
    assert [row.task_id for row in found] == [good["task_id"]]


def test_a_table_that_names_a_quarantined_tactic_is_a_miss(make_rank: RankMaker) -> None:
    """What hung or crashed is not served by a table from before; rows of the file that are none are left out."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    assert make_rank(1).look_up("run-00001", retune=False).hit
    served = next(
        v
        for v in json.loads((process.directory / "autotune_configs.json").read_bytes()).values()
        if isinstance(v, list)
    )
    bad = {"op": "cpu_gemm", "runner": served[0], "tactic": json.dumps(served[1])}
    NodeStore(process.directory).save_quarantine([{"op": "cpu_gemm"}, bad | {"gpu": "H200"}])

    answer = make_rank(1).look_up("run-00002", retune=False)

    assert (answer.hit, answer.quarantine) == (False, (TacticId(**bad),))
    assert f"names {served[0]} tactic {served[1]} of cpu_gemm, which is quarantined" in answer.reason


@pytest.mark.parametrize("strategy", ["independent", "leader"])
def test_without_persistence_nothing_is_checkpointed(make_rank: RankMaker, strategy: str) -> None:
    """Neither non-persistent mode nor strategy `independent` writes partial results."""
    process = make_rank(2, cache={"persistent": strategy == "independent"}, autotune={"strategy": strategy})
    process.tune(tasks_of(process)[0])
    assert not process.directory.exists()


def test_a_damaged_blob_at_lookup_is_a_miss(make_rank: RankMaker) -> None:
    """Trouble with any stored blob is a miss with the reason, not an error: nothing was pushed yet."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    timings = next(blob.sha256 for blob in header.blobs if blob.kind == "timings")
    path = process.directory / "blobs" / timings
    path.write_bytes(b"x" * path.stat().st_size)
    answer = make_rank(1).look_up("run-00001", retune=False)
    assert answer.hit is False
    assert timings[:16] in answer.reason or "timings" in answer.reason


def test_a_table_that_cannot_be_restored_is_a_hit_without_a_file(make_rank: RankMaker) -> None:
    """Where something else lies at the table's path the blobs are a hit, and the answer says that no file is there."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    assert make_rank(1).look_up("run-00001", retune=False).table.on_disk is True
    table = process.directory / "autotune_configs.json"
    table.unlink()
    table.mkdir()
    fresh = make_rank(1)
    answer = fresh.look_up("run-00002", retune=False)
    assert (answer.hit, answer.table.on_disk) == (True, False)
    assert any("could not be restored" in warning for warning in answer.warnings)
    assert fresh.install(header, blobs).degraded
    assert fresh.load(header.digest, header, blobs).digest == header.digest


def test_stale_and_foreign_stores_are_misses_with_reasons(make_rank: RankMaker) -> None:
    """A table of another FlashInfer below the same key is refused with the field that differs."""
    process = make_rank(0)
    process.install(*tune(process))
    answer = make_rank(1, {"metadata": {"cuda_version": "99"}}).look_up("run-00001", retune=False)
    assert not answer.hit
    assert "cuda_version" in answer.reason


def test_markers_tell_shared_directories(make_rank: RankMaker, tmp_path: Path) -> None:
    """A node sees the first marker of those that share its directory; markers are gone once lookup is over."""
    shared = tmp_path / "shared"
    first, second, third = make_rank(0, root=shared), make_rank(2, root=shared), make_rank(1)
    for number, process in enumerate((first, second, third)):
        process.look_up(f"run-0000{number}", retune=False)
    tokens = [f"run-0000{number}" for number in range(3)]
    assert second.find_markers(tokens) == Markers(tuple(tokens[:1]))
    assert third.find_markers(tokens) == Markers(tuple(tokens[2:]))
    for process in (first, second, third):
        process.compile()
    assert list(tmp_path.rglob("run-0000*")) == []


def test_a_marker_that_cannot_be_removed_does_not_stop_the_run(make_rank: RankMaker) -> None:
    """A directory that changes under the run costs a log line, not the next phase."""
    process = make_rank(0)
    process.look_up("run-00000", retune=False)
    markers = process.directory / "markers"
    (markers / "run-00000").unlink()
    markers.rmdir()
    markers.write_text("a file now")
    assert process.compile() == Compiled((), ())
    process.close()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"outcome": "v2"}, "TimingRow: result: Field required"),
        ({"result": {"task_id": 3}}, "result.task_id: 3: Input should be a valid string"),
        ({"verdict": {"ratio": float("nan")}}, "TimingRow: result: Field required"),
        (7, "TimingRow: the whole: 7: "),
    ],
)
def test_a_broken_line_of_a_sidecar_costs_itself_alone(make_rank: RankMaker, line: Any, words: str) -> None:
    """The table is found, with the other lines, and the broken one is named; `cache verify` finds it, too."""
    process = make_rank(0)
    process.install(*tune(process))
    store = NodeStore(process.directory)
    artifact, lease = store.load_artifact()
    lease.release()
    (sidecar,) = artifact.contents("timings")
    document = json.loads(bytes(sidecar.data))
    lines = len(document["tasks"])
    document["tasks"].append(line)
    contents = [table_content(artifact.table or b""), Content("timings", sidecar.path, json.dumps(document).encode())]
    manifest = artifact.manifest
    about = {"key_sha256": manifest.key.sha256, "fingerprint": dict(manifest.fingerprint), "created_at": 2.0}
    store.publish(pack(contents, key=dict(manifest.key.parts), strategy="leader", guard=manifest.guard, **about))

    rank = make_rank(1)
    answer = rank.look_up("run-00001", retune=False)

    assert answer.hit, answer.reason
    assert len(rank.recall_table().results) == lines
    assert [w for w in answer.warnings if f"timings.json: 1 of {lines + 1} rows is refused" in w and words in w]
    assert any("rows is refused" in problem for problem in verify_store(process.directory).problems)


def test_a_refused_row_of_an_earlier_run_is_told(make_rank: RankMaker) -> None:
    """Its task is measured again, which somebody who waits for it wants to know."""
    process = make_rank(1)
    good = encode(process.tune(tasks_of(process)[0]).result)
    (file,) = (process.directory / "partial").iterdir()
    late = {**good, "task_id": tasks_of(process)[1], "measurements": [{"median_s": None}]}
    file.write_text(json.dumps({**json.loads(file.read_text()), "rows": [good, late]}))
    rank = make_rank(0)
    answer = rank.look_up("run-00000", retune=False)
    assert [row.task_id for row in rank.recall_finished().results] == [good["task_id"]]
    assert [w for w in answer.warnings if "1 of 2 rows is refused" in w and "measurements.0.runner" in w]
