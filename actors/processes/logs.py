"""Read what the processes of a run logged from the files of Ray's session on each node, also after the run has ended.

Ray names a log file by worker and pid, so every process of a run writes one line first that says whose log it is.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.node_task import ask_nodes
from ray_warmup.actors.cluster.ray_internals import logs_here

COORDINATOR = -1
"""Stands for the coordinator where a rank is meant."""
HEAD_BYTES = 1 << 18
"""The line that says whose log it is stands before this; imports may have logged something earlier."""
MAX_FILES = 4000
NODES_S = 20.0
_MARK = re.compile(
    rb"^ray-warmup: this is the log of run ([\w.-]+), (coordinator|rank (\d+)) on node (\w+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class ProcessLog:
    """The end of one process' log."""

    run_id: str
    rank: int
    """COORDINATOR for the coordinator."""
    node_id: str
    path: str
    text: str
    modified_at: float
    """Seconds since 1970."""

    @property
    def title(self) -> str:
        """Whose log it is, and where it lies."""
        return f"{_name(self.rank)} of run {self.run_id}, node {self.node_id[:8]}: {self.path}"


def _name(rank: int) -> str:
    if rank == COORDINATOR:
        return "coordinator"
    return f"rank {rank}"


def mark(run_id: str, rank: int, node_id: str) -> None:
    """Write the line that says whose log this process writes."""
    # Not through `logging`, whose level may leave it out.
    sys.stderr.write(f"ray-warmup: this is the log of run {run_id}, {_name(rank)} on node {node_id}\n")
    sys.stderr.flush()


def mark_coordinator(run_id: str) -> None:
    """Write the line that says that this process writes the log of a coordinator."""
    node_id = "unknown"
    # Outside Ray the question for the node would start a cluster.
    if ray.is_initialized():
        node_id = ray.get_runtime_context().get_node_id()
    mark(run_id, COORDINATOR, node_id)


def logs_of(run: str, rank: int | None, tail_bytes: int) -> tuple[list[ProcessLog], list[str]]:
    """Return the logs of the runs whose id begins with `run`, by rank and age, and what could not be asked.

    Args:
        run: beginning of a run's id.
        rank: only this rank's, or COORDINATOR. None: all.
        tail_bytes: length of the end of each log.
    """
    members = membership.members()
    asked = {node.node_id: (run, rank, tail_bytes) for node in members}
    answers, problems = ask_nodes(logs_on_node, asked, NODES_S)
    # By path, which holds the worker's id: raylets on one machine share the directory.
    found = {log.path: log for logs in answers.values() for log in logs}
    in_order = sorted(found.values(), key=lambda log: (log.run_id, log.rank, log.modified_at))
    return in_order, list(problems.values())


def logs_on_node(run: str, rank: int | None, tail_bytes: int) -> list[ProcessLog]:
    """`logs_of` on one node, as a task there."""
    return list(read_logs(logs_here(), run, rank, tail_bytes))


def read_logs(directory: Path, run: str, rank: int | None, tail_bytes: int) -> Iterator[ProcessLog]:
    """Yield the logs of a directory that belong to a run."""
    for path in _newest(directory):
        owner = _owner(path)
        if owner is None or not owner[0].startswith(run) or rank not in (None, owner[1]):
            continue
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - tail_bytes))
            text = file.read().decode(errors="replace")
        if size > tail_bytes:
            text = text.partition("\n")[2]
        yield ProcessLog(*owner, str(path), text, path.stat().st_mtime)


def _newest(directory: Path) -> list[Path]:
    """Return the workers' files, newest first. A session that ran for months has very many."""
    files = list(directory.glob("worker-*.err"))
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return files[:MAX_FILES]


def _owner(path: Path) -> tuple[str, int, str] | None:
    """Return run, rank and node of a log, or None for another process' log."""
    with path.open("rb") as file:
        found = _MARK.search(file.read(HEAD_BYTES))
    if found is None:
        return None
    rank = COORDINATOR
    if found[3] is not None:
        rank = int(found[3])
    return found[1].decode(), rank, found[4].decode()
