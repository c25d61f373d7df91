"""A replica's ranks by script, and the conductor that asks them: no process, no socket, no device."""

from __future__ import annotations

from ray_warmup.warmup.engines.tuning.conductor import Conductor, Surroundings
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.resuming import Earlier
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.recorded import Asked, Joined, Replied, Serve, Served
from ray_warmup.warmup.messages.values import PoolTask
from ray_warmup.warmup.messages.wire import QUESTIONS, Message, from_bytes, to_bytes
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TacticId, TaskResult
from ray_warmup.warmup.workloads.recorded_request import (
    RecordedInput,
    RecordedRequest,
    RecordedRunner,
    Recording,
    parse_recording,
    recording_of,
)

OP = "cpu_gemm"


def request(op: str = OP, width: int = 32) -> RecordedRequest:
    """A request at three buckets; of `cpu_gemm` there is a recipe."""
    a = RecordedInput("tensor", "float32", (4, width), (width, 1), (0,))
    weight = RecordedInput("tensor", "float32", (16, width), (width, 1))
    return RecordedRequest(
        op=op,
        runners=(RecordedRunner("Runner", "()"),),
        inputs=(a, weight),
        config=(),
        scalars=(),
        tokens=4,
        buckets=(1, 2, 4),
        dtype="float32",
        exact_sizes=False,
    )


def recording(*requests: RecordedRequest) -> str:
    """What a rank recorded: one request if none is given."""
    return recording_of(requests or (request(),)).to_bytes().decode()


TASKS = tuple(task.task_id for task in parse_recording(recording().encode()).tasks)


class Replica:
    """Scripted ranks and the conductor that asks them."""

    def __init__(
        self, world_size: int = 2, earlier: Earlier | None = None, conductor: type[Conductor] = Conductor
    ) -> None:
        around = Surroundings(self._send, lambda key: earlier or Earlier(), self._keep, lambda rank: self.stack)
        self.conductor = conductor(world_size, TuningOptions(), around)
        self.stack = ""
        self.now = 0.0
        self.device = "GPU"
        self.asked: list[tuple[int, Message]] = []
        self.tuned: list[tuple[int, str]] = []
        self.guarded: list[tuple[int, str]] = []
        self.kept: list[str] = []
        self.banned: set[TacticId] = set()

    def _send(self, rank: int, message: Message) -> None:
        self.asked.append((rank, message))

    def _keep(self, key: str, result: TaskResult) -> None:
        self.kept.append(result.task_id)

    def join(self, *ranks: int, recorded: str | None = None, refused: tuple[tuple[str, str], ...] = ()) -> None:
        """Ranks come."""
        for rank in ranks:
            joined = Joined("", rank, self.conductor.world_size, recorded or recording(), refused=refused)
            self.conductor.joined(joined, self.now)

    def answer(self, until: int = 1000) -> None:
        """Answer questions in order, at most so many."""
        for _ in range(until):
            if not self.asked:
                return
            rank, message = self.asked.pop(0)
            if isinstance(message, Asked):
                question = from_bytes(message.question.encode(), *QUESTIONS)
                answer = to_bytes(self._answer(rank, question)).decode()
                self.conductor.received(rank, to_bytes(Replied(message.call_id, 0.1, answer)), self.now)
            elif isinstance(message, Serve):
                self.serve(rank)

    def serve(self, rank: int, digest: str = "d") -> None:
        """A rank has loaded its table and leaves."""
        self.conductor.received(rank, to_bytes(Served("{}", digest, 3)), self.now)
        self.conductor.ended(rank, self.now)

    def _recorded(self, rank: int) -> Recording:
        return self.conductor.recordings[rank]

    def _answer(self, rank: int, question: questions.Question) -> answers.Answer:
        match question:
            case questions.Probe():
                key = self._recorded(rank).digest
                parts = {"recording": key, "device": self.device}
                return answers.Probed(key=key, parts=parts, device=self.device, backend="cuda")
            case questions.Outline():
                tasks = self._recorded(rank).tasks
                return answers.Outlined(tuple(PoolTask(task.task_id, task.workload.identity, 1.0) for task in tasks))
            case questions.Tune():
                self.tuned.append((rank, question.task_id))
                self.banned |= set(question.quarantine)
                return answers.Tuned(result(question.task_id, rank))
            case questions.Guard():
                self.guarded.append((rank, question.task_id))
                choice = Choice("Runner", 1)
                return answers.Guarded(GuardVerdict(question.task_id, "kept", choice, 1.1, 1.1, 1e-3, 7, rank=rank))
        raise AssertionError(question)


def result(task_id: str, rank: int = 0) -> TaskResult:
    """A tuned task."""
    rows = (Measurement("Runner", 1, 1e-3, 0.0, 1), Measurement("Runner", -1, 2e-3, 0.0, 1))
    choice = Choice("Runner", 1)
    return TaskResult(task_id, OP, 1, "tuned", choice, "Runner", {"Runner": task_id}, (), rows, rank=rank)
