"""The last runs that were started on any node of a cluster, as each node kept them."""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.questions.verdicts import ask_each
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.run_history import KeptRun, kept_runs


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run, and the node that keeps its report."""

    node_id: str
    kept: KeptRun


def runs_of_cluster(cache: CacheSection) -> tuple[list[FoundRun], list[str]]:
    """Return the runs that every node keeps, newest first, and what could not be asked.

    Nodes that share a directory name each run once.
    """
    answers, problems = ask_each(membership.members(), runs_on_node, cache)
    found: dict[tuple[str, float], FoundRun] = {}
    for node_id, (kept, unread) in answers.items():
        for run in kept:
            found.setdefault((run.run.run_id, run.run.began_at), FoundRun(node_id, run))
        for problem in unread:
            problems.append(f"node {node_id[:8]}: {problem}")
    newest_first = sorted(found.values(), key=lambda run: run.kept.run.began_at, reverse=True)
    return newest_first, problems


def runs_on_node(cache: CacheSection) -> tuple[list[KeptRun], list[str]]:
    """`kept_runs`, as a task on a node."""
    problems: list[str] = []
    return kept_runs(resolve_paths(cache).root, problems), problems
