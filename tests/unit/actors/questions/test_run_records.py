"""Runs that several nodes keep are listed once, newest first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ray_warmup.actors.questions import run_records
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.store.run_history import keep_run
from tests.unit.warmup.store.test_run_history import ended


def test_a_shared_directory_names_a_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes see one directory, a third has its own; a damaged file is named with its node."""
    roots = {"a" * 56: tmp_path / "shared", "b" * 56: tmp_path / "shared", "c" * 56: tmp_path / "own"}
    keep_run(tmp_path / "shared", ended(1), b"{}")
    keep_run(tmp_path / "own", ended(2), b"{}")
    keep_run(tmp_path / "own", ended(3), b"{}").write_text("{}")

    def each(nodes: object, function: object, cache: CacheSection) -> object:
        answers = {
            node_id: run_records.runs_on_node(cache.model_copy(update={"root": str(root)}))
            for node_id, root in roots.items()
        }
        return answers, ["node dddddddd did not answer within 20 s"]

    monkeypatch.setattr(run_records, "ask_each", each)
    monkeypatch.setattr(run_records.membership, "members", list)
    found, problems = run_records.runs_of_cluster(CacheSection())

    assert [(run.node_id[0], run.kept.run.run_id) for run in found] == [("c", "run-002"), ("a", "run-001")]
    assert problems[0] == "node dddddddd did not answer within 20 s"
    assert problems[1].startswith("node cccccccc: ")
    assert dataclasses.is_dataclass(found[0])
