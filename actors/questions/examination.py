"""`ray-warmup doctor --cluster`: check every node, and what only a cluster has."""

from __future__ import annotations

import time
from collections.abc import Mapping

import ray

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.node_task import answers_of, start_on
from ray_warmup.actors.questions.node_examination import NodeFindings, check_here
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.doctor.finding import Finding, error, ok, warning

CLOCKS_S = 5.0
"""Clocks that differ by more make leases and times of stores hard to read."""
FEW_OBJECT_BYTES = 1 << 30


def examine(section: CacheSection, limit_s: float) -> dict[str, tuple[Finding, ...]]:
    """Check every node of the connected cluster, and the cluster itself under the name `cluster`."""
    asked_at = time.time()
    nodes = {node.node_id: (section.model_dump_json(),) for node in membership.members()}
    started = start_on(check_here, nodes)
    # While the nodes start a process for their answer.
    of_all = (*_of_ray(), *_of_registry())
    answers: dict[str, NodeFindings]
    answers, problems = answers_of(started, limit_s)
    found = {node_id: answer.findings for node_id, answer in answers.items()}
    for node_id, problem in problems.items():
        found[node_id] = (error("node", problem, "look at that node's raylet, and install ray-warmup there"),)
    found["cluster"] = (
        *_of_versions(answers),
        *_of_clocks(answers, asked_at, time.time()),
        *of_all,
    )
    return found


def _of_versions(answers: Mapping[str, NodeFindings]) -> tuple[Finding, ...]:
    versions = {answer.version for answer in answers.values()}
    if len(versions) <= 1:
        return (ok("packages", "every node has the same ray-warmup"),)
    text = f"nodes have ray-warmup {', '.join(sorted(versions))}"
    return (error("packages", text, "install one version on all of them: others refuse its messages"),)


def _of_clocks(answers: Mapping[str, NodeFindings], asked_at: float, answered_at: float) -> tuple[Finding, ...]:
    """Compare clocks. What lies between question and answer is no difference."""
    off = []
    for node_id, answer in answers.items():
        distance = max(asked_at - answer.clock, answer.clock - answered_at, 0.0)
        if distance > CLOCKS_S:
            off.append(f"node {node_id[:8]} by {distance:.0f} s")
    if off:
        return (warning("clocks", f"clocks differ from this machine's: {', '.join(off)}", "let NTP set them"),)
    return (ok("clocks", f"all clocks agree within {CLOCKS_S:g} s"),)


def _of_ray() -> tuple[Finding, ...]:
    size = int(ray.cluster_resources().get("object_store_memory", 0))
    text = f"Ray {ray.__version__}, {size / (1 << 30):.1f} GiB of object store"
    if size < FEW_OBJECT_BYTES:
        return (warning("ray", text, "start nodes with a larger --object-store-memory: artifacts spill to disk"),)
    return (ok("ray", text),)


def _of_registry() -> tuple[Finding, ...]:
    from ray_warmup.actors.registry.client import registry_status

    try:
        found = registry_status()
    except ray.exceptions.RayError as silent:
        text = f"the registry does not answer: {silent}"
        return (
            warning(
                "registry",
                text,
                "`ray-warmup registry stop` ends it, the next process that calls ensure_warm starts another",
            ),
        )
    if found is None:
        return (ok("registry", "none runs; the first process that calls ensure_warm starts it"),)
    return (ok("registry", f"knows {len(found.keys)} keys"),)
