"""PROBING: every rank describes itself, and ranks with one cache key form a class with one leader.

What a key's ranks have in common (tasks, skipped workloads) weighs a megabyte in a large model: one of them is asked.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.machine.naming import span
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.steps import peers
from ray_warmup.warmup.machine.steps.leadership import reluctance
from ray_warmup.warmup.messages.answers import Answer, Outlined
from ray_warmup.warmup.messages.questions import Outline, Probe


class Probing(PhaseLogic):
    """Asks every rank for its description, one rank of every key for its outline, then classes."""

    phase = Phase.PROBING

    def enter(self, run: Run) -> Commands:
        return _probe_all(run, run.ranks)

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        if isinstance(value, Outlined):
            keep_outline(run, call.rank, value)
        return self._group(run)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        return self._group(run)  # it may have been the last one that was waited for

    def _group(self, run: Run) -> Commands:
        if run.is_pending(Probe, Outline) or not everyone_described(run):
            return []
        tight = fit_memory(run)
        if tight:
            return _probe_all(run, tight)
        missing = without_outline(run)
        if missing:
            return [*run.ask_all(missing, Outline())]
        run.set_classes(group_classes(run))
        _warn_of_mixture(run)
        return []


def everyone_described(run: Run) -> bool:
    """Return True if every rank has a live process that has described itself.

    A lost rank is waited for, since it may be asked again.
    """
    return all(state.is_alive and state.description is not None for state in run.ranks.values())


def probe(run: Run, rank: int) -> Call:
    """Ask a rank to describe itself, within its class's memory budget and with its node's modules, where there are."""
    state = run.ranks[rank]
    modules = None
    if run.classes:
        modules = run.class_of(rank).modules.in_use.get(state.info.node_id)
    return run.call(rank, Probe(state.budget_bytes, modules))


def _probe_all(run: Run, ranks: Iterable[int]) -> Commands:
    return [probe(run, rank) for rank in ranks]


def fit_memory(run: Run) -> list[int]:
    """Return the ranks whose largest tasks exceed the smallest budget among ranks with equal work.

    They probe again.

    Decided once for all of them, so that they stay one class: a budget is `autotune.max_memory_bytes`, or
    `autotune.max_memory_share` of what is free on the rank's device.
    """
    autotune = run.config.autotune
    equal: dict[str, list[int]] = {}
    for rank, state in run.ranks.items():
        if state.budget_bytes is None:
            equal.setdefault(state.described.key, []).append(rank)
    tight: list[int] = []
    for ranks in equal.values():
        limits: list[int] = []
        if autotune.max_memory_bytes is not None:
            limits.append(autotune.max_memory_bytes)
        needed = 0
        for described in (run.ranks[rank].described for rank in ranks):
            needed = max(needed, described.needs_bytes)
            if described.free_bytes:
                limits.append(int(described.free_bytes * autotune.max_memory_share))
        if limits and needed > min(limits):
            for rank in ranks:
                run.ranks[rank].budget_bytes = min(limits)
                run.outlines.pop(run.ranks[rank].described.key, None)
            tight += ranks
    return tight


def without_outline(run: Run) -> list[int]:
    """The first rank of every cache key whose tasks nobody has listed yet."""
    first: dict[str, int] = {}
    for rank, state in run.ranks.items():
        first.setdefault(state.described.key, rank)
    if not run.config.autotune.is_enabled:
        run.outlines = dict.fromkeys(first, Outlined())
    return [rank for key, rank in first.items() if key not in run.outlines]


def keep_outline(run: Run, rank: int, value: Outlined) -> None:
    """Keep the outline that every rank of this rank's key would give."""
    run.outlines[run.ranks[rank].described.key] = value
    for warning in value.shrunk:
        run.warn(warning, remedies.MEMORY)


def group_classes(run: Run) -> dict[str, ClassState]:
    """Group ranks by cache key.

    Under `independent` every rank is a class of its own.
    """
    ranks_of: dict[str, list[int]] = {}
    alone = run.config.autotune.strategy == "independent"
    for rank, state in sorted(run.ranks.items()):
        key = state.described.key
        if alone:
            key = f"{key}#{rank}"
        ranks_of.setdefault(key, []).append(rank)
    slow = peers.slow_at_reference(run)
    for rank, ratio in slow.items():
        info = run.ranks[rank].info
        run.warn(
            f"{info} needs {ratio:.2f} times its peers' time for the reference GEMM; it will not lead", remedies.SLOW
        )
    return {key: _class(run, key, ranks, set(slow)) for key, ranks in ranks_of.items()}


def _class(run: Run, key: str, ranks: list[int], slow: set[int]) -> ClassState:
    described = run.ranks[ranks[0]].described
    outline = run.outlines[described.key]
    return ClassState(
        key=key,
        parts=dict(described.parts),
        ranks=ranks,
        leader=min(ranks, key=lambda rank: (*reluctance(run, rank, slow), rank)),
        strategy=resolve_strategy(run.config.autotune.strategy, described.backend, len(ranks)),
        tasks=outline.tasks,
        skips=outline.skips,
        slow=frozenset(slow & set(ranks)),
        needs_guard=run.config.guard.enabled,
    )


def resolve_strategy(asked: str, backend: str, num_ranks: int) -> str:
    """Resolve `auto`: sharded for two or more GPUs, leader otherwise.

    On CPU neighbours would disturb each other's timings.
    """
    if asked != "auto":
        return asked
    if backend == "cuda" and num_ranks > 1:
        return "sharded"
    return "leader"


def _warn_of_mixture(run: Run) -> None:
    """Name the fingerprint parts that split the cluster, because each extra class tunes once more."""
    if run.config.autotune.strategy == "independent":
        run.warn(
            "strategy `independent`: every rank tunes for itself, digests may differ between ranks",
            "set autotune.strategy to auto for one table for all",
        )
        return
    classes = list(run.classes.values())
    first = classes[0]
    for other in classes[1:]:
        different: list[str] = []
        for name, value in first.parts.items():
            theirs = other.parts.get(name, "")
            if theirs != value and name != "tasks":
                different.append(f"{name}: {value!r} and {theirs!r}")
        if different:
            run.warn(
                f"ranks {span(other.ranks)} differ from ranks {span(first.ranks)} in {', '.join(different)}: "
                f"they form a class of their own, which measures its {len(other.tasks)} tasks once more",
                "make these parts equal on all nodes, or start a run for each kind of node",
            )
