"""Leaving the verdict on every node when a run is over: beside each table, and in each node's index.

One rank writes for each node of a class: the node's writer, or another rank if the writer does not answer. A slow disk
has `timeouts.installing` seconds. Ranks without heartbeats are not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ray

from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.reports.on_disk import verdict_here
from ray_warmup.warmup.machine.state.rank import Place
from ray_warmup.warmup.machine.state.run import ClassState, Run
from ray_warmup.warmup.messages.answers import Concluded
from ray_warmup.warmup.messages.questions import Conclude
from ray_warmup.warmup.messages.values import RankEnd, RunVerdict
from ray_warmup.warmup.messages.wire import from_bytes
from ray_warmup.warmup.report import WarmupReport

GRACE_S = 2.0
"""Given to every rank, whatever is known of it."""
SILENT_BEATS = 3
"""So many heartbeats may be missing before a rank is not waited for any more."""
Statuses = Mapping[int, Status]


def verdict_of(report: WarmupReport) -> RunVerdict:
    """Build the verdict that is stored beside every table.

    Each rank adds the digest that it loaded.
    """
    return RunVerdict(
        run_id=report.run_id,
        ready=report.ready,
        state="ready" if report.ready else "failed",
        error=report.error,
        ended_at=time.time(),
        phases=report.phases,
        ranks=tuple(RankEnd(rank.rank, rank.node_id, rank.role, rank.state) for rank in report.ranks),
    )


async def conclude(
    run: Run, group: RankGroup, report: WarmupReport, statuses: Callable[[], Statuses]
) -> tuple[str, ...]:
    """Send every node the verdict of the run, and return what the nodes could not do with it.

    `statuses` returns the ranks' latest heartbeats.
    """
    verdict, began = verdict_of(report), time.monotonic()
    calls: dict[asyncio.Future[str | None], int] = {}
    for rank, notice in notices(run, verdict):
        calls[asyncio.ensure_future(_asked(group.call(rank, notice)))] = rank
    pending = dict(calls)
    limit_s, beat_s = run.config.timeouts.installing, run.config.timeouts.heartbeat
    while pending and (left_s := began + limit_s - time.monotonic()) > 0:
        # In short steps, so that a rank that falls silent is given up before the whole limit.
        done, _ = await asyncio.wait(pending, timeout=min(GRACE_S, left_s))
        heard = statuses()
        silent_since = time.monotonic() - max(GRACE_S, SILENT_BEATS * beat_s)
        # Nobody waits for a rank that has been silent: its process may be gone or frozen.
        for call, rank in tuple(pending.items()):
            if call in done or rank not in heard or heard[rank].heard < silent_since:
                del pending[call]
    problems = []
    for call, rank in calls.items():
        if call.done() and call.result() is not None:
            problems.append(f"rank {rank}: {call.result()}")
    return tuple(problems)


def notices(run: Run, verdict: RunVerdict) -> Iterator[tuple[int, Conclude]]:
    """Yield one rank per node and class with its notice.

    The verdict itself is sent once per directory.
    """
    for found in run.classes.values():
        told: set[int] = set()
        leader_place = None
        if found.leader in run.ranks:
            leader_place = run.ranks[found.leader].place
        for place, writer in sorted(found.writers.items(), key=lambda pair: _is_guest(run, *pair)):
            ranks = _ranks_at(run, found.ranks, place)
            speaker = _speaker(run, found, place)
            if speaker is not None:
                here = None
                if writer not in told:
                    here = verdict_here(run, speaker, verdict)
                shares = verdict.ready and place == leader_place
                yield speaker, Conclude(here, tuple(ranks), shares)
                told.add(writer)


def _is_guest(run: Run, place: Place, writer: int) -> bool:
    """Writers' own nodes come first, so that they write the verdict of a directory that several share."""
    return writer not in run.ranks or run.ranks[writer].place != place


def _ranks_at(run: Run, ranks: Iterable[int], place: Place) -> list[int]:
    """Return those of these ranks that are in the run and at this place."""
    return [rank for rank in ranks if rank in run.ranks and run.ranks[rank].place == place]


def _speaker(run: Run, found: ClassState, place: Place) -> int | None:
    """Return the writer if it is able to answer, or else another rank of that node.

    None if no process is left.
    """
    able = _ranks_at(run, run.alive(found), place)
    writer = found.writers[place]
    # An overdue rank is still busy and may not answer; among the others the writer comes first.
    return min(
        able, key=lambda rank: (run.ranks[rank].is_silent, rank in run.overdue, rank != writer, rank), default=None
    )


async def _asked(ref: Any) -> str | None:
    """Await a rank's answer and return its problem. A rank that is lost meanwhile has none to tell."""
    with contextlib.suppress(ray.exceptions.RayError):
        data, _ = await ref
        return from_bytes(data, Concluded).problem
    return None
