"""The last look at the disks: nodes that should keep the table and do not, as their ranks saw it before the verdict."""

from __future__ import annotations

from dataclasses import replace

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.phases.lookup import keeps_files
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import ClassState, Run
from ray_warmup.warmup.messages.values import RunVerdict

KIND = "NotOnDiskError"


def lacks_table(run: Run, state: RankState) -> bool:
    """Tell a node that has no table of the rank's class on its disk, or another one."""
    digest = run.class_of(state.info.rank).digest
    return digest is not None and state.stored != digest


def ranks_without_table(run: Run) -> list[RankState]:
    """One rank of each node that lacks a table."""
    found: dict[str, RankState] = {}
    for state in _expected(run):
        if lacks_table(run, state):
            found.setdefault(state.info.node_id, state)
    return list(found.values())


def share(run: Run) -> str | None:
    """Count the nodes that have what engines on them open: `1 of 2 nodes`.

    None where no disk was asked for anything.
    """
    nodes = {state.info.node_id for state in _expected(run)}
    if not nodes:
        return None
    return f"{len(nodes) - len(ranks_without_table(run))} of {len(nodes)} nodes"


def refusal(run: Run) -> str | None:
    """Explain why a run that served every rank is no success.

    None where it is one, or where `cache.require_disk` is off; then the run is warned.
    """
    nodes = ranks_without_table(run)
    if not nodes:
        return None
    where = "; ".join(f"{state.info}: {_reason(run.class_of(state.info.rank), state)}" for state in nodes[:4])
    more = ""
    if len(nodes) > 4:
        more = f"; and {len(nodes) - 4} more nodes"
    text = f"{share(run)} keep the table on disk, engines on the others would find nothing: {where}{more}"
    if not run.config.cache.require_disk:
        run.warn(text, remedies.WRITABLE)
        return None
    return (
        f"{KIND}: {text}; set cache.root to a directory with room there, cache.require_disk=false to call such a run "
        "ready (exit code 4), or cache.persistent=false if nothing is to be kept"
    )


def verdict_here(run: Run, rank: int, verdict: RunVerdict) -> RunVerdict:
    """Change the verdict of a ready run for a node whose disk does not have the table."""
    if not verdict.ready or not lacks_table(run, run.ranks[rank]):
        return verdict
    error = "the run is ready, but this node's disk does not hold its table"
    return replace(verdict, ready=False, state="failed", error=error)


def _expected(run: Run) -> list[RankState]:
    """Ranks of classes whose table belongs on disk."""
    if not keeps_files(run):
        return []
    return [
        run.ranks[rank]
        for rank_class in run.classes.values()
        if rank_class.digest is not None
        for rank in rank_class.ranks
    ]


def _reason(rank_class: ClassState, state: RankState) -> str:
    if state.place in rank_class.in_memory:
        return "its disk refused the files, see the warning"
    return f"{state.place[1]} does not hold the table any more"
