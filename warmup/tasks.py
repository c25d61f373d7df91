"""Workloads, tasks and their measurements. Pure values with JSON forms.

A *workload* is one op call of a model on one rank (for example the QKV projection as a bf16 GEMM
of K=1024, N=4096). A *task* is one workload at one bucket (a number of tokens, M): the unit of
tuning, progress, blame, resume and sharding. This module imports neither torch nor FlashInfer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.codec import Tactic, message
from ray_warmup.warmup.codec import freeze as freeze

Scalar = str | int | float | bool
TaskOutcome = Literal["tuned", "oom", "no_valid_tactic", "collision"]
"""`collision`: two winners of one task would share one file key, so the op keeps its default."""
Decision = Literal["kept", "replaced", "slower", "wrong", "crashed", "default", "unguarded"]
"""What the guard decided; see `GuardVerdict.decision`."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
Note = Annotated[str, StringConstraints(max_length=65536)]
Bucket = Annotated[int, Field(ge=1, le=1 << 24)]
Count = Annotated[int, Field(ge=0, le=1 << 50)]
Duration = Annotated[float, Field(ge=0, le=1e7)]
"""Seconds; no measurement of ours takes four months."""
Positive = Annotated[float, Field(gt=0, le=1e7)]
Ratio = Annotated[float, Field(ge=0, le=1e7)]

MAX_TACTIC_CHARS = 4096
DEFAULT_TACTIC = -1
"""FlashInfer's number for "the first runner's own heuristic"."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One op call of a model on one rank, without its inputs.

    Example: `Workload("qkv_proj", "gemm", "bf16_gemm", "cublaslt", "bfloat16", (("k", 1024), ("n", 4096)), (1, 2, 4))`
    """

    name: str
    """Where the model uses it: `qkv_proj`, `lm_head`, `moe`, `paged_decode`, ..."""
    family: str
    """Builder module in `warmup/workloads/`: gemm, fused_moe, attention, norm, rope, sampling."""
    op: str
    """FlashInfer's custom-op name when tunable (`bf16_gemm`), else our own name (`rmsnorm`)."""
    backend: str
    """The backend argument given to the op (`cublaslt`, `auto`, `fa2`, `cpu`)."""
    dtype: str
    """torch dtype name of the activations: bfloat16, float16, float32, float8_e4m3fn."""
    params: tuple[tuple[str, Scalar], ...]
    """The shape without the number of tokens, sorted by name: k, n, num_experts, head_dim, ..."""
    buckets: tuple[int, ...]
    """Numbers of tokens (M) that are tuned and replayed; the op's own buckets, ascending."""
    tunable: bool = True
    """False: compiled and replayed, never timed."""
    modules: tuple[str, ...] = ()
    """Names of the FlashInfer modules that it needs compiled."""
    exact_sizes: bool = False
    """True where FlashInfer's key holds the exact number of tokens, so a size between buckets never hits."""
    ranks: str = "every rank"
    """Which ranks run it, for people: `last pipeline stage`, `expert shard 1 of 4`. No part of its identity."""

    @property
    def identity(self) -> str:
        """Return the text that identifies equal work: op, backend, dtype and shape, without the name."""
        shape = ",".join(f"{name}={value}" for name, value in self.params)
        return f"{self.op}:{self.backend}:{self.dtype}:{shape}"

    def param(self, name: str) -> Scalar:
        """Return the value of one shape parameter.

        Raises KeyError naming the workload.
        """
        for key, value in self.params:
            if key == name:
                return value
        raise KeyError(f"workload {self.name} has no parameter {name!r}")

    def sizes(self, *names: str) -> tuple[int, ...]:
        """Return the values of shape parameters that are numbers. Raises as `param`."""
        return tuple(int(self.param(name)) for name in names)


@dataclass(frozen=True, slots=True)
class Task:
    """One workload at one bucket."""

    workload: Workload
    bucket: int

    @property
    def task_id(self) -> str:
        """Stable name, equal on every rank: `bf16_gemm:cublaslt:bfloat16:k=1024,n=4096@256`."""
        return f"{self.workload.identity}@{self.bucket}"

    @property
    def cost(self) -> float:
        """An estimate of the seconds that tuning takes: a constant for building tactics, and the arithmetic on top."""
        sizes = dict(self.workload.params)
        return 1.0 + float(sizes.get("k", 1)) * float(sizes.get("n", 1)) * self.bucket / 1e11


@message
class Skip:
    """A workload that this GPU or installation cannot run, and why."""

    workload: str
    op: str
    reason: str


@message
class Measurement:
    """One tactic of one runner, timed on one task."""

    runner: Name
    """Class name of FlashInfer's TunableRunner."""
    tactic: Tactic
    """As FlashInfer writes it to JSON: an int, or a nested list."""
    median_s: Positive
    spread_s: Duration
    """Half the distance between the quartiles; 0.0 when timed once."""
    repeats: Count


@message
class Choice:
    """The runner and tactic that a task's table entry names."""

    runner: Name
    tactic: Tactic


def _is_json(text: str) -> str:
    parse_json(text, MAX_TACTIC_CHARS)
    return text


@message
class TacticId:
    """One tactic of one runner, for every shape of its op: what is quarantined, and what a death is blamed on."""

    op: Name
    runner: Name
    tactic: Annotated[Name, AfterValidator(_is_json)]
    """As JSON text."""


@message
class TaskResult:
    """Result of tuning one task, complete enough to write, guard, merge or explain its table entry.

    At most a few KiB as JSON, so that it travels inline as an event and can be kept as a checkpoint.
    """

    task_id: Name
    op: Name
    bucket: Bucket
    outcome: TaskOutcome
    choice: Choice | None
    """None unless `outcome` is "tuned"."""
    default_runner: Note
    """Class name of the first runner: what serves when nothing is tuned; empty where it never came to be asked."""
    keys: dict[Name, Name] = field(default_factory=dict)
    """FlashInfer's file key of this task for each runner class."""
    policy: tuple[Tactic, ...] | None = None
    """The entry's third column (measurement policy), kept as FlashInfer gave it."""
    measurements: tuple[Measurement, ...] = ()
    """Fastest first; at most the shortlist."""
    elapsed_s: Duration = 0.0
    peak_bytes: Count = 0
    rank: Count = 0
    gpu: Note = ""


@message
class Contender:
    """A candidate that the guard has proven faster than the default by the margin."""

    choice: Choice
    ratio: Positive
    """Default's time over its own, the least that a judge so far has measured."""


@message
class GuardVerdict:
    """The guard's decision on one task."""

    task_id: Name
    decision: Decision
    """kept: the winner is faster and right. replaced: the next best took its place. slower, wrong, crashed:
    no candidate held, the default stays, and this is why the winner went. default: the default had won already."""
    choice: Choice
    """What the table entry names now; the default tactic is `Choice(default_runner, -1)`."""
    ratio: Positive
    """Default's time over the chosen one's, both under the guard's measurement; 1.0 for the default. The least one of
    several judges, to whom also `default_s`, `rounds` and `rank` belong."""
    winner_ratio: Ratio
    """The same for the tuned winner, before the guard's decision."""
    default_s: Duration
    rounds: Count
    note: Note = ""
    rank: Count = 0


def tasks_of(workloads: tuple[Workload, ...]) -> tuple[Task, ...]:
    """The tunable tasks of a rank, in workload order, each piece of work once."""
    seen: dict[str, Task] = {}
    for workload in workloads:
        if not workload.tunable:
            continue
        for bucket in workload.buckets:
            task = Task(workload, bucket)
            seen.setdefault(task.task_id, task)
    return tuple(seen.values())


def digest_of_tasks(workloads: tuple[Workload, ...]) -> str:
    """sha256 over the rank's own work, names excluded: equal work gives equal digests."""
    rows = sorted({(w.identity, w.tunable, w.buckets) for w in workloads})
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
