"""`ray-warmup cache export | import --cluster`: one file where the command runs, stores on the nodes.

export   the node with the newest artifact of a key packs it, a guarded one first; the file is written here
import   the file is checked here as a whole, then every node checks and publishes it; its bytes travel once a node
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from ray_warmup.actors.capacity import Node
from ray_warmup.actors.node_task import ask_nodes
from ray_warmup.actors.transfer import buffer
from ray_warmup.warmup.artifact.archive import read_checked
from ray_warmup.warmup.cache_admin.command import perform
from ray_warmup.warmup.cache_admin.store_changes import write_export
from ray_warmup.warmup.disk.clock import SLACK_S
from ray_warmup.warmup.errors import StoreError

Arguments = Mapping[str, Any]
Answers = tuple[dict[str, Any], dict[str, str]]
"""(answers, problems), each by node id; see `ask_nodes`."""


def export_from(nodes: Sequence[Node], arguments: Arguments, timeout_s: float) -> Answers:
    """Write an archive here from the one node that packs it.

    Raises StoreError.
    """
    asked = {**arguments, "if_present": True}
    listed, problems = ask_nodes(perform, {node.node_id: ("ls", asked) for node in nodes}, timeout_s)
    rows: list[tuple[dict[str, Any], str]] = []
    for node_id, answer in listed.items():
        rows += [(row, node_id) for row in answer.get("result", ()) if not row["problem"]]
    keys = sorted({row["key_sha256"] for row, _ in rows})
    wanted = f"beginning with {arguments['key']!r}" if arguments.get("key") else "named"
    if not keys:
        raise StoreError("; ".join([f"no node has a whole store with a key {wanted}", *problems.values()]))
    if len(keys) > 1:
        names = ", ".join(key[:12] for key in keys)
        raise StoreError(f"{len(keys)} keys are {wanted} on these nodes ({names}): give more of the key")
    _, source = max((_worth(row), node_id) for row, node_id in rows)
    packs = {**arguments, "key": keys[0], "file": None}
    answers, problems = ask_nodes(perform, {source: ("export", packs)}, timeout_s)
    for answer in answers.values():
        if "result" in answer:
            write_export(Path(arguments["file"]), answer["result"].pop("data"))
            answer["result"]["file"] = arguments["file"]
    return answers, problems


def _worth(row: Mapping[str, Any]) -> tuple[bool, int, float]:
    """Rank artifacts for export: guarded first, then the deepest lineage, then the newest time.

    A time in the future counts as zero.
    """
    made_at = row["created_at"] if row["created_at"] <= time.time() + SLACK_S else 0.0
    return row["guard"] == "guarded", row["depth"], made_at


def import_to(nodes: Sequence[Node], arguments: Arguments, timeout_s: float) -> Answers:
    """Send an archive to every node and return the answers.

    Raises StoreError or an ArtifactError for the file before any node is asked.
    """
    file = Path(arguments["file"])
    try:
        data = read_checked(file)[0]
    except FileNotFoundError as error:
        raise StoreError(f"{file} does not exist", path=str(file)) from error
    sent = ray.put(buffer(data))
    return ask_nodes(receive, {node.node_id: (arguments, sent) for node in nodes}, timeout_s)


def receive(arguments: Arguments, data: Any) -> dict[str, Any]:
    """Publish the artifact in these bytes on a node.

    Runs as a task there.
    """
    return perform("import", {**arguments, "data": memoryview(data)})
