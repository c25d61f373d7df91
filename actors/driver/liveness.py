"""Check whether a silent coordinator's process lives, by the cluster's record and its node's /proc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_warmup.actors.cluster.ray_internals import row_of

ASK_S = 10.0
RUNS = frozenset("RSDI")
"""States of a process that makes progress or waits for something; not those of a stopped or ended one."""


def process_state(pid: int) -> str:
    """Return the state letter of a local process, or an empty string if there is none.

    Runs as a task on the process's node.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The name in parentheses may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()[0]


def lives(actor: Any) -> bool:
    """Return True if an actor's process exists and is not stopped.

    False too if its node does not answer.
    """
    from ray_warmup.actors.cluster.node_task import ask_nodes

    row = row_of(actor)
    if row.get("State") != "ALIVE":
        return False
    node_id = row["Address"]["NodeID"]
    answers, _ = ask_nodes(process_state, {node_id: (row["Pid"],)}, ASK_S)
    return answers.get(node_id, "") in RUNS
