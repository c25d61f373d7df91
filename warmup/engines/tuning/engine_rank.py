"""One rank of an engine while its requests are tuned: it joins, answers questions, and loads what was found.

Runs in the engine's process, after its forward and before its graphs are captured. The questions are those of every
rank (`messages/questions.py`); the work is done by the same `Tuner`.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.factory import TunerFactory
from ray_warmup.warmup.device.scratch import scratch_directory
from ray_warmup.warmup.device.tuner import Tuner, Watch
from ray_warmup.warmup.engines.tuning.frames import Connection
from ray_warmup.warmup.engines.tuning.options import tuner_options
from ray_warmup.warmup.errors import DeadContextError, EngineError, WarmupError
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.questions import Question
from ray_warmup.warmup.messages.recorded import Asked, Joined, Replied, Serve, Served, Welcome
from ray_warmup.warmup.messages.values import Heartbeat, PoolTask
from ray_warmup.warmup.messages.wire import QUESTIONS, from_bytes, to_bytes
from ray_warmup.warmup.tasks import Skip, TacticId, Task
from ray_warmup.warmup.workloads.recorded_request import Recording

logger = logging.getLogger(__name__)

BEAT_S = 1.0
SHOWN = 3
"""Misses and failures of one kind that are told."""


class EngineRank:
    """One rank. `serve` returns when the rank holds its table."""

    def __init__(
        self, rank: int, world_size: int, recording: Recording, make_tuner: TunerFactory, backend: str
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._recording, self._make_tuner, self._backend = recording, make_tuner, backend
        self._tuner: Tuner
        self._tasks: dict[str, Task] = {}
        self._skips: tuple[Skip, ...] | None = None
        """None before the requests were looked at."""
        self._method, self._task_id, self._since = "idle", "", time.monotonic()
        self._is_done = threading.Event()

    def serve(
        self,
        address: str,
        token: str,
        problems: Sequence[str] = (),
        stacks: Path | None = None,
        *,
        states: Mapping[str, str] | None = None,
        refused: Mapping[str, str] | None = None,
    ) -> Served:
        """Join at an address, answer until told what to serve, and return what is served.

        Args:
            address: `host:port` of the conductor.
            token: the start's secret.
            problems: requests that could not be recorded.
            stacks: file for the stacks of a fatal signal.
            states: what the runners of each request hold, by its digest.
            refused: why requests of another replica were not made again, by digest.

        Raises:
            EngineError: the conductor cannot be reached, or is gone.
        """
        host, _, port = address.rpartition(":")
        try:
            stream = socket.create_connection((host, int(port)), timeout=30)
        except OSError as error:
            raise EngineError(f"rank {self._rank}: its run at {address} cannot be reached: {error}") from error
        stream.settimeout(None)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(stream)
        record = None
        if stacks is not None:
            record = stacks.open("wb")
        if record is not None:
            faulthandler.enable(file=record)
        beats = threading.Thread(target=self._beat_always, args=(connection,), name="ray-warmup-beat", daemon=True)
        try:
            text = self._recording.to_bytes().decode()
            joined = Joined(
                token=token,
                rank=self._rank,
                world_size=self._world_size,
                recording=text,
                problems=tuple(problems),
                states=tuple((states or {}).items()),
                refused=tuple((refused or {}).items()),
            )
            connection.send(joined)
            self._tuner = self._make_tuner(self._backend, tuner_options(self._welcomed(connection)))
            self._tuner.listen(lambda watch: self._beat(connection, watch))
            beats.start()
            return self._answer_all(connection)
        except OSError as error:
            raise EngineError(f"rank {self._rank}: its run at {address} is gone: {error}") from error
        finally:
            self._is_done.set()
            connection.close()
            _restore(record)

    def _welcomed(self, connection: Connection) -> Welcome:
        data = connection.receive()
        if data is None:
            raise EngineError(f"rank {self._rank}: its run refused it; the report says why")
        return from_bytes(data, Welcome)

    def _answer_all(self, connection: Connection) -> Served:
        while True:
            data = connection.receive()
            if data is None:
                raise EngineError(f"rank {self._rank}: its run ended the tuning; the report says why")
            asked: object = from_bytes(data, Asked, Serve)
            if isinstance(asked, Serve):
                served = self._serve(asked)
                connection.send(served)
                return served
            assert isinstance(asked, Asked), "one of the kinds that were allowed"
            connection.send(self._replied(asked))

    def _replied(self, asked: Asked) -> Replied:
        """Answer one question, or say what was raised."""
        question: Question = from_bytes(asked.question.encode(), *QUESTIONS)
        began = time.monotonic()
        task_id = questions.task_of(question) or ""
        self._method, self._task_id, self._since = questions.name_of(type(question)), task_id, began
        try:
            answer = to_bytes(self._answer(question)).decode()
            return Replied(asked.call_id, time.monotonic() - began, answer)
        except Exception as error:  # the border of the process: whatever a tactic raises is told
            told = traceback.format_exc(limit=-8)
            kind, seconds = type(error).__name__, time.monotonic() - began
            return Replied(asked.call_id, seconds, kind=kind, error=str(error), traceback=told, culprit=_culprit(error))
        finally:
            self._method, self._task_id, self._since = "idle", "", time.monotonic()

    def _answer(self, question: Question) -> Answer:
        match question:
            case questions.Probe():
                return self._probe()
            case questions.Outline():
                return self._outline()
            case questions.Tune():
                self._tuner.set_quarantine(question.quarantine)
                result = self._tuner.tune(self._task(question.task_id))
                return answers.Tuned(replace(result, rank=self._rank))
            case questions.Guard():
                self._tuner.set_quarantine(question.quarantine)
                found = self._tuner.guard(self._task(question.task_id), question.result, question.contenders)
                return replace(found, verdict=replace(found.verdict, rank=self._rank))
            case _:
                raise EngineError(f"{questions.name_of(type(question))} is no question to a rank of an engine")

    def _probe(self) -> answers.Probed:
        """Describe this rank: equal recordings in equal environments are one class."""
        facts = self._tuner.describe()
        parts = {"recording": self._recording.digest, "device": self._tuner.device(), **facts}
        key = hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()
        return answers.Probed(key=key, parts=parts, device=self._tuner.device(), backend=self._backend)

    def _outline(self) -> answers.Outlined:
        skips = self._skips
        if skips is None:
            skips = self._prepare()
        listed = tuple(PoolTask(task.task_id, task.workload.identity, task.cost) for task in self._tasks.values())
        return answers.Outlined(listed, skips)

    def _prepare(self) -> tuple[Skip, ...]:
        """Leave out requests whose results cannot be compared."""
        skips = self._skips = self._tuner.prepare(self._recording.workloads)
        left_out = {skip.workload for skip in skips}
        self._tasks = {}
        for task in self._recording.tasks:
            if task.workload.name not in left_out:
                self._tasks[task.task_id] = task
        return skips

    def _task(self, task_id: str) -> Task:
        """Return a task. Only one rank of a class was asked for the outline, so the others prepare here."""
        if self._skips is None:
            self._prepare()
        task = self._tasks.get(task_id)
        if task is None:
            raise WarmupError(f"this rank has not recorded task {task_id}")
        return task

    def _serve(self, asked: Serve) -> Served:
        """Compose the class's table, load it, look every task up and run every winner once."""
        if not asked.results:
            return Served("", "", 0)
        tasks = [self._task(result.task_id) for result in asked.results]
        measured = {result.task_id for result in asked.results}
        left_out = [task for task in self._recording.every_task if task.task_id not in measured]
        # Or an engine that loads the table would tune them itself, one that communicates as well.
        table = self._tuner.table(asked.results, asked.verdicts, left_out)
        if table is None:
            return Served("", "", 0)
        with scratch_directory() as directory:
            path = directory / "autotune_configs.json"
            path.write_bytes(table)
            loaded = self._tuner.load(path, tasks)
        replayed = self._tuner.replay(tasks)
        problems = []
        for miss in loaded.misses[:SHOWN]:
            problems.append(f"misses its table: {miss}")
        for failure in replayed.failed[:SHOWN]:
            problems.append(f"does not run its winner: {failure}")
        return Served(table.decode(), parse_table(table).digest, loaded.hits, tuple(problems))

    def _beat(self, connection: Connection, watch: Watch) -> None:
        """Tell what is measured, right before it runs: it is known even if it ends this process."""
        elapsed = max(0.0, time.monotonic() - self._since)
        connection.send(
            Heartbeat(self._method, self._task_id, elapsed, op=watch.op, runner=watch.runner, tactic=watch.tactic)
        )

    def _beat_always(self, connection: Connection) -> None:
        while not self._is_done.wait(BEAT_S):
            try:
                self._beat(connection, self._tuner.watch())
            except OSError:
                return


def _culprit(error: BaseException) -> TacticId | None:
    """The tactic that took the device with it, where the error names one."""
    if not isinstance(error, DeadContextError):
        return None
    op, runner, tactic = (error.details.get(name) for name in ("op", "runner", "tactic"))
    if not runner:
        return None
    return TacticId(str(op), str(runner), str(tactic))


def _restore(record: IO[bytes] | None) -> None:
    """Give Python's own stacks back to standard error."""
    if record is not None:
        faulthandler.enable()
        record.close()
