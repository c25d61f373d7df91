"""A plain function on given nodes, one task each, beside whatever runs there: no CPU, no GPU, no retry, one deadline.

Wrapped by `ray.remote` here only. A node that fails or is late is a problem by name, never an exception: what the
others answered is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_warmup.actors.cluster.remote_errors import as_failure, lacks_package, reason_of_death

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Started(Generic[A]):
    """One function on every node, whose answers nobody has waited for yet."""

    refs: Mapping[str, ray.ObjectRef]
    """By node id."""


def ask_nodes(
    function: Callable[..., A], arguments: Mapping[str, tuple[Any, ...]], timeout_s: float
) -> tuple[dict[str, A], dict[str, str]]:
    """Call `function(*arguments[node_id])` on every node at once: (answers, problems), each by node id."""
    return answers_of(start_on(function, arguments), timeout_s)


def start_on(function: Callable[..., A], arguments: Mapping[str, tuple[Any, ...]]) -> Started[A]:
    """Start `function(*arguments[node_id])` on every node at once, and return what `answers_of` waits for."""
    return Started({node_id: _start(function, node_id, args) for node_id, args in arguments.items()})


def answers_of(started: Started[A], timeout_s: float) -> tuple[dict[str, A], dict[str, str]]:
    """Wait for what was started: (answers, problems), each by node id."""
    refs = started.refs
    answers: dict[str, A] = {}
    problems: dict[str, str] = {}
    if not refs:
        return answers, problems
    ready, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=timeout_s)
    for node_id, ref in refs.items():
        if ref not in ready:
            problems[node_id] = f"node {node_id[:8]} did not answer within {timeout_s:g} s"
            with suppress(ray.exceptions.RayError):
                ray.cancel(ref, force=True)
            continue
        try:
            answers[node_id] = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            failure = as_failure(error)
            advice = lacks_package(error, f"node {node_id[:8]}")
            problems[node_id] = advice or f"node {node_id[:8]}: {failure.kind}: {failure.message}"
        except ray.exceptions.RayError as error:
            problems[node_id] = f"node {node_id[:8]} was lost: {reason_of_death(error)}"
    return answers, problems


def ask_alike(
    function: Callable[..., A], node_ids: Iterable[str], arguments: tuple[Any, ...], timeout_s: float
) -> tuple[dict[str, A], dict[str, str]]:
    """Call `function(*arguments)` on these nodes, as `ask_nodes` does."""
    return ask_nodes(function, dict.fromkeys(node_ids, arguments), timeout_s)


def _start(function: Callable[..., Any], node_id: str, arguments: tuple[Any, ...]) -> Any:
    remote = ray.remote(function).options(
        num_cpus=0,
        num_gpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    )
    return remote.remote(*arguments)
