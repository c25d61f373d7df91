"""`ray-warmup cache ... --cluster`: real tasks on real nodes, each with directories of its own."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ray_warmup.scripts.commands.cache import app
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.store.node_store import NodeStore
from tests.testbed import Case, Node

pytestmark = pytest.mark.cluster


def call(case: Case, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the JSON answer."""
    where = ("--cluster", "--root", f"~/{case.name}", "--json")
    result = CliRunner().invoke(app, [*arguments, *where])
    return result.exit_code, json.loads(result.stdout)


def store(case: Case, node: Node) -> NodeStore:
    """The one store that a node has for this test."""
    return NodeStore(case.table(node).parent)


def artifact(directory: Path) -> Artifact:
    """The current artifact of a store."""
    found, lease = NodeStore(directory).load_artifact()
    lease.release()
    return found


def rows(answer: dict[str, Any]) -> dict[str, Any]:
    """Each node's result by its id."""
    return {row["node_id"]: row["result"] for row in answer["nodes"]}


def test_every_node_answers_for_its_own_directory(case: Case) -> None:
    """`ls` and `verify` see each node's own store; a blob that is damaged on one node fails that node by name; prune
    is a dry run on every node without --yes, and with it removes on every node."""
    first, second, spare = case.bed.nodes
    case.plant(first, second)
    code, listed = call(case, "ls")
    found = rows(listed)
    assert (code, len(listed["nodes"])) == (0, 4), listed
    assert [Path(found[n.node_id][0]["path"]) for n in (first, second)] == [
        store(case, n).directory for n in (first, second)
    ]
    assert found[spare.node_id] == []

    blob = max((store(case, second).directory / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    code, verified = call(case, "verify")
    assert code == 1
    assert [row["node_id"] for row in verified["nodes"] if not row["ok"]] == [second.node_id]

    rules = ("prune", "--older-than-days", "0")
    code, planned = call(case, *rules)
    assert code == 0
    assert all(len(rows(planned)[n.node_id]["plan"]) == 1 and store(case, n) for n in (first, second))
    code, pruned = call(case, *rules, "--yes")
    assert (code, case.files(first, "*"), case.files(second, "*")) == (0, [], [])
    assert rows(pruned)[second.node_id]["done"]["freed_bytes"] > 0


def test_a_rollback_is_served_by_the_next_run(case: Case) -> None:
    """Where nodes would serve different tables nothing is changed; else all go back, and the next run finds that."""
    first, second, _ = case.bed.nodes
    case.plant(first, second)
    case.plant(kind="younger", salt="younger")
    old, young = (artifact(next(case.bed.tuned[kind].rglob("current")).parent) for kind in ("guarded", "younger"))
    assert [store(case, n).publish(young).generation for n in (first, second)] == [2, 2]
    again = Artifact(replace(old.manifest, created_at=old.manifest.created_at + 1), old.blobs)
    assert store(case, second).publish(again).generation == 3
    code, listed = call(case, "ls")
    assert (code, "nodes serve different tables for key" in listed["error"]) == (1, True)

    code, refused = call(case, "rollback")
    assert (code, refused["nodes"]) == (1, [])
    assert "nothing was changed: nodes would serve different tables" in refused["error"]
    assert [store(case, n).current()[0].generation for n in (first, second)] == [2, 3]

    store(case, second).make_current(2)
    code, done = call(case, "rollback")
    assert (code, [row["result"]["new"] for row in done["nodes"] if row["result"]]) == (0, [1, 1]), done
    after = case.run()
    assert (after.ready, after.classes[0].hit) == (True, True)
    assert after.classes[0].digest == parse_table(old.table or b"").digest


def test_a_node_that_does_not_answer_is_named(case: Case) -> None:
    """While one raylet stands still its node is named with the deadline, exit code 1; the others' rows are there."""
    silent = case.bed.nodes[0]
    assert call(case, "ls")[0] == 0
    os.kill(silent.raylet_pid, signal.SIGSTOP)
    try:
        code, answer = call(case, "ls", "--timeout", "2")
    finally:
        os.kill(silent.raylet_pid, signal.SIGCONT)

    assert code == 1
    assert [row["node_id"] for row in answer["nodes"] if row["error"]] == [silent.node_id]
    assert f"node {silent.node_id[:8]} did not answer within 2 s (--timeout)" in answer["error"]


def test_one_file_leaves_the_cluster_and_reaches_its_nodes(case: Case, tmp_path: Path) -> None:
    """`export` finds who has the artifact; `import` publishes it where a rank could be, a damaged file nowhere."""
    first, second, spare = case.bed.nodes
    case.plant(first)
    file, config = tmp_path / "artifact.rwa", tmp_path / "main.yaml"
    config.write_text(
        "cluster: {num_nodes: 2, ranks_per_node: 1, gpus_per_rank: 0, backend: cpu, node_labels: {pool: main}}\n"
        "model: {name: qwen3-0.6b}\n"
    )
    code, out = call(case, "export", str(file))
    assert (code, [row["node_id"] for row in out["nodes"]]) == (0, [first.node_id])
    damaged = tmp_path / "damaged.rwa"
    damaged.write_bytes(file.read_bytes()[:-100])
    where = ("--cluster", "--root", f"~/{case.name}", "--config", str(config))
    refused = CliRunner().invoke(app, ["import", str(damaged), *where])
    assert refused.exit_code == 1
    assert "truncated or damaged" in refused.stderr
    assert not case.cache(second).exists()
    code, done = call(case, "import", str(file), "--config", str(config))
    assert (code, len(done["nodes"])) == (0, 2)
    assert artifact(store(case, second).directory).digest == artifact(store(case, first).directory).digest
    assert not case.cache(spare).exists()


def test_a_layout_leaves_the_cluster_and_reaches_its_nodes(case: Case, tmp_path: Path) -> None:
    """`export --oci` writes an OCI image layout where the command runs, and `import` reads it there for every node."""
    case.plant(case.bed.nodes[0])
    layout = tmp_path / "layout"
    code, out = call(case, "export", str(layout), "--oci")
    assert (code, out["nodes"][0]["result"]["file"]) == (0, str(layout))
    code, done = call(case, "import", str(layout))
    assert code == 0
    assert {row["node_id"] for row in done["nodes"]} >= {node.node_id for node in case.bed.nodes}
    assert len({artifact(store(case, node).directory).digest for node in case.bed.nodes}) == 1
