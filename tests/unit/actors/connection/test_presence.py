"""Whether this machine may be a node of a cluster, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.actors.connection.presence import may_be_node


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes of a machine without a cluster."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    for pid, name in (("1", "init"), ("self", "python"), ("20", "ray-warmup")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "comm").write_text(f"{name}\n")
    return tmp_path / "proc"


def test_a_machine_without_anything_of_ray_is_no_node(proc: Path) -> None:
    """Ray need not be imported to know that."""
    assert not may_be_node(proc)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_of_a_node_is_seen(proc: Path, name: str) -> None:
    """Every node has a raylet; the head a control service."""
    (proc / "33").mkdir()
    (proc / "33" / "comm").write_text(f"{name}\n")
    assert may_be_node(proc)


def test_the_file_of_a_cluster_is_seen(proc: Path, tmp_path: Path) -> None:
    """Processes of another container cannot be seen, a shared directory can."""
    (tmp_path / "tmp" / "ray").mkdir(parents=True)
    (tmp_path / "tmp" / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert may_be_node(proc)


def test_where_processes_cannot_be_listed_ray_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not Linux."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert may_be_node(tmp_path / "nowhere")
