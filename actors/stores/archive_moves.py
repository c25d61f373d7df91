"""`ray-warmup cache export | import --cluster`: one file where the command runs, stores on the nodes.

export   The node with the best artifact of a key packs it (`_worth`), and the file is written here.
import   The whole file is checked here. Then every node checks and publishes it. Its bytes travel once to each node.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from ray_warmup.actors.cluster.membership import Node, ids_of
from ray_warmup.actors.cluster.node_task import ask_alike, ask_nodes
from ray_warmup.actors.cluster.transfer import buffer
from ray_warmup.warmup.artifact.archive import read_checked
from ray_warmup.warmup.cache_admin.command import perform
from ray_warmup.warmup.cache_admin.exporting import write_export
from ray_warmup.warmup.cache_admin.requests import CacheAnswer, CacheRequest, Exported
from ray_warmup.warmup.cache_admin.store_inspection import StoreRow
from ray_warmup.warmup.disk.clock import SLACK_S
from ray_warmup.warmup.errors import StoreError

Answers = tuple[dict[str, CacheAnswer], dict[str, str]]
"""(answers, problems), each by node id; see `ask_nodes`."""


def export_from(nodes: Sequence[Node], asked: CacheRequest, timeout_s: float) -> Answers:
    """Write an archive here from the one node that packs it.

    Raises StoreError.
    """
    listed, problems = ask_alike(perform, ids_of(nodes), ("ls", replace(asked, if_present=True)), timeout_s)
    stores = _whole_stores(listed)
    keys = sorted({row.key_sha256 for row, _ in stores})
    wanted = "named"
    if asked.key:
        wanted = f"beginning with {asked.key!r}"
    if not keys:
        raise StoreError("; ".join([f"no node has a whole store with a key {wanted}", *problems.values()]))
    if len(keys) > 1:
        names = ", ".join(key[:12] for key in keys)
        raise StoreError(f"{len(keys)} keys are {wanted} on these nodes ({names}): give more of the key")
    _, source = max((_worth(row), node_id) for row, node_id in stores)
    packs = replace(asked, key=keys[0], file=None)
    answers, problems = ask_nodes(perform, {source: ("export", packs)}, timeout_s)
    return {node_id: _written(answer, asked) for node_id, answer in answers.items()}, problems


def _whole_stores(listed: Mapping[str, CacheAnswer]) -> list[tuple[StoreRow, str]]:
    """Return the stores without a problem, each with its node."""
    found = []
    for node_id, answer in listed.items():
        if not isinstance(answer.result, tuple):
            continue
        for row in answer.result:
            if isinstance(row, StoreRow) and not row.problem:
                found.append((row, node_id))
    return found


def _written(answer: CacheAnswer, asked: CacheRequest) -> CacheAnswer:
    """Write an exported archive where it was asked for here, and name the place instead of its bytes."""
    packed = answer.result
    if not isinstance(packed, Exported) or packed.data is None:
        return answer
    write_export(Path(asked.file or ""), packed.data, oci=asked.oci)
    return replace(answer, result=replace(packed, file=asked.file, data=None))


def _worth(row: StoreRow) -> tuple[bool, int, float]:
    """Rank artifacts for export: guarded first, then the deepest lineage, then the newest time.

    A time in the future counts as zero.
    """
    made_at = row.created_at or 0.0
    if made_at > time.time() + SLACK_S:
        made_at = 0.0
    return row.guard == "guarded", row.depth, made_at


def import_to(nodes: Sequence[Node], asked: CacheRequest, timeout_s: float) -> Answers:
    """Send an archive to every node and return the answers.

    Raises StoreError or an ArtifactError for the file before any node is asked.
    """
    file = Path(asked.file or "")
    try:
        data = read_checked(file)[0]
    except FileNotFoundError as error:
        raise StoreError(f"{file} does not exist", path=str(file)) from error
    sent = ray.put(buffer(data))
    return ask_alike(receive, ids_of(nodes), (asked, sent), timeout_s)


def receive(asked: CacheRequest, data: Any) -> CacheAnswer:
    """Publish the artifact in these bytes on a node.

    Runs as a task there.
    """
    return perform("import", replace(asked, data=memoryview(data)))
