"""Proof that an engine's process serves a table: its own lookups, and every recorded task through its own runners.

An engine runs a few sizes before its first request. So what it asks for is kept, and each kept request is looked up at
all of its buckets, without running a kernel. A miss is named with the nearest key of the table.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray_warmup.warmup.artifact.table import TunedTable
from ray_warmup.warmup.device.autotuner_seams import look_up, watched_lookups
from ray_warmup.warmup.device.tuning_request import Captured
from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.messages.recorded import TableProof
from ray_warmup.warmup.tasks import Task
from ray_warmup.warmup.workloads import recorded
from ray_warmup.warmup.workloads.live_request import LiveRequests, live_request
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest, Recording

logger = logging.getLogger(__name__)

SHOWN = 8
"""Misses that are told in full."""


class LookupWatch:
    """Watches one process from the moment at which it holds its table."""

    def __init__(self, table: TunedTable, recordings: Sequence[Recording], requests: LiveRequests) -> None:
        """Watch for the class of ranks among `recordings` whose requests this process makes."""
        self._table, self._recordings, self._requests = table, tuple(recordings), requests
        self._largest: dict[str, int] = {}
        """Recorded request -> the largest number of tokens that the engine's dummy forward asked for."""
        self._untuned: set[str] = set()
        """Recorded requests that keep their default, for which a table need not have an entry."""
        self._defaults: set[str] = set()
        """Keys of lookups of these that have no entry."""
        self._ops: set[str] = set()
        """Recorded ops: what hits of others was tuned by the engine itself, outside of what is recorded."""
        for recording in self._recordings:
            for request in recording.requests:
                self._largest[request.digest] = max(request.tokens, self._largest.get(request.digest, 0))
                self._ops.add(request.op)
                if not request.is_tuned:
                    self._untuned.add(request.digest)
        self._own_hits = 0
        self._own_misses: dict[str, str] = {}
        self._beyond: set[str] = set()
        """Keys of lookups with more tokens than the engine's own tuning reaches."""
        self._is_asking = False
        """Lookups of this object's own are made now."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hear every lookup in the block."""
        with watched_lookups(self._heard):
            yield

    def proof(self) -> TableProof:
        """Look every recorded task up, and return what was seen so far."""
        made = {request.digest for request in self._requests.recording().requests}
        wanted = self._of_this_class(made)
        hits = 0
        misses: list[str] = []
        unasked: list[str] = []
        self._is_asking = True
        for digest, request in wanted.items():
            if digest not in made:
                if request.is_tuned:
                    unasked.append(f"{request.op} {request.shapes()}")
                continue
            for bucket in request.buckets:
                problem = self._problem(Task(request.workload(), bucket))
                if problem is None:
                    hits += 1
                elif request.is_tuned:
                    misses.append(problem)
        self._is_asking = False
        return TableProof(
            digest=self._table.digest,
            entries=len(self._table.entries),
            own_hits=self._own_hits,
            own_misses=tuple(self._own_misses.values())[:SHOWN],
            hits=hits,
            misses=tuple(misses[:SHOWN]),
            unasked=tuple(unasked[:SHOWN]),
            beyond=len(self._beyond),
        )

    def _of_this_class(self, made: set[str]) -> dict[str, RecordedRequest]:
        """Return the requests of the class that fits best: the fewest that were not made, then the most."""
        classes: list[dict[str, RecordedRequest]] = []
        for recording in self._recordings:
            classes.append({request.digest: request for request in recording.requests})
        return min(classes, key=lambda wanted: (len(set(wanted) - made), -len(wanted)), default={})

    def _problem(self, task: Task) -> str | None:
        try:
            call = recorded.build_of(self._requests, task.workload, task.bucket, 0, values=False)
            found = look_up(call.run, task.workload.op)
        except (TuningError, RuntimeError, ValueError, TypeError) as error:
            return f"{task.task_id}: {type(error).__name__}: {error}"
        key = next((key for key in found.keys if key in self._table.entries), None)
        if key is None:
            return f"{task.task_id}: {self._nearest(found.keys[0])}"
        entry = self._table.entries[key]
        if (found.hit, found.runner, found.tactic) != (True, entry.runner, entry.tactic):
            served = f"{found.runner} tactic {found.tactic}"
            return f"{task.task_id}: served {served}, the table has {entry.tactic} for {key}"
        return None

    def _heard(self, request: Captured, hit: bool, runner: str, tactic: Any) -> None:
        """Keep an answer, and the request where it is a new one. Never raises into the engine."""
        if self._is_asking:
            return
        try:
            keys = tuple(request.file_keys().values())
            if hit and any(key in self._table.entries for key in keys):
                self._own_hits += 1
            elif hit and request.op not in self._ops:
                return
            elif not any(keys[0] in told for told in (self._own_misses, self._beyond, self._defaults)):
                self._note_miss(request, keys[0])
            if keys[0] not in self._requests.seen and not _is_capturing():
                self._requests.seen.add(keys[0])
                made = (request.op, request.runners, request.tuning_config, request.inputs, request.kwargs)
                self._requests.add(live_request(*made))
        except Exception as error:  # the engine's own call goes on, whatever fails here
            logger.info("a lookup of %s could not be followed: %s", request.op, error)

    def _note_miss(self, request: Captured, key: str) -> None:
        """Tell a miss from a lookup that the default serves with and without a table."""
        made = live_request(request.op, request.runners, request.tuning_config, request.inputs, request.kwargs).request
        known = self._largest.get(made.digest)
        if made.digest in self._untuned:
            self._defaults.add(key)
        elif known is not None and made.tokens > known:
            self._beyond.add(key)
        elif len(self._own_misses) < 4 * SHOWN:
            self._own_misses[key] = self._nearest(key)

    def _nearest(self, key: str) -> str:
        """Name a missing key and the nearest one of the table."""
        near = difflib.get_close_matches(key, list(self._table.entries), 1, 0.0) or ["none"]
        return f"no entry for {key}; the nearest is {near[0]}"


def _is_capturing() -> bool:
    """Return True while a CUDA graph is captured, into which a copy of an input would be taken."""
    import torch

    return torch.cuda.is_available() and bool(torch.cuda.is_current_stream_capturing())
