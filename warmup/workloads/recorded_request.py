"""One request of an engine to FlashInfer's AutoTuner as a value: what was asked, in which form, at which sizes.

`live_request.py` holds the live runners and inputs of a request. Equal requests of two ranks or two starts have equal
digests, independent of the content and the address of weights. Imports neither torch nor FlashInfer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.errors import CorruptArtifactError
from ray_warmup.warmup.tasks import Bucket, Count, Name, Note, Task, Workload, tasks_of

FAMILY = "recorded"
DIGEST_PARAM = "request"
"""Name of the workload parameter that leads back to the request."""
MAX_RECORD_BYTES = 16 << 20
SCHEMA_VERSION: Literal[1] = 1


@message
class RecordedInput:
    """One input of a request: a tensor's form, or another value in words."""

    kind: Literal["tensor", "none", "value"]
    dtype: Note = ""
    shape: tuple[Count, ...] = ()
    """As it was recorded."""
    stride: tuple[Count, ...] = ()
    follows: tuple[Count, ...] = ()
    """Dimensions that follow the number of tokens."""
    value: Note = ""
    """Text of a number or dtype, or the class of an object; empty for a tensor."""

    @property
    def form(self) -> list[object]:
        """Everything that does not depend on the number of tokens."""
        shape = [0 if dim in self.follows else size for dim, size in enumerate(self.shape)]
        layout = self.stride_order if self.follows else self.stride
        return [self.kind, self.dtype, shape, list(layout), list(self.follows), self.value]

    @property
    def stride_order(self) -> tuple[int, ...]:
        """Dimensions from the outermost to the innermost in memory."""
        return tuple(sorted(range(len(self.stride)), key=lambda dim: (-self.stride[dim], dim)))


@message
class RecordedRunner:
    """One runner of a request: its class, and what it adds to the key of a table's entry."""

    name: Name
    extras: Note
    """Text of the extras, for one token."""


@message
class RecordedRequest:
    """One request to the AutoTuner. The buckets are the op's own."""

    op: Name
    runners: tuple[RecordedRunner, ...]
    inputs: tuple[RecordedInput, ...]
    config: tuple[Note, ...]
    """The tuning configuration in words: which dimensions it tunes, what follows them, how it measures."""
    scalars: tuple[tuple[Name, Note], ...]
    """Further arguments of the request, by name."""
    tokens: Bucket
    """The largest number of tokens that was asked for."""
    buckets: Annotated[tuple[Bucket, ...], Field(min_length=1)]
    dtype: Name
    """torch dtype of the activations, which decides how far outputs may differ."""
    exact_sizes: bool
    """True where the key of an entry holds the exact number of tokens."""
    keeps_default: Note = ""
    """Reason why the request is not tuned, or empty."""

    @property
    def digest(self) -> str:
        """sha256 of what was asked, without the number of tokens and the buckets."""
        plain = [
            self.op,
            [(runner.name, runner.extras) for runner in self.runners],
            [one.form for one in self.inputs],
            self.config,
            self.scalars,
            self.dtype,
        ]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()

    @property
    def runner_names(self) -> tuple[str, ...]:
        """Classes of its runners."""
        return tuple(runner.name for runner in self.runners)

    @property
    def default_runner(self) -> str:
        """Class of the first runner, which serves where nothing is tuned."""
        return self.runners[0].name

    @property
    def is_tuned(self) -> bool:
        """Return True unless the request keeps its default."""
        return not self.keeps_default

    def workload(self) -> Workload:
        """Return the request as work to be tuned, guarded and looked up."""
        return Workload(
            name=f"{self.op} {self.shapes()} #{self.digest[:6]}",
            family=FAMILY,
            op=self.op,
            backend=FAMILY,
            dtype=self.dtype,
            params=((DIGEST_PARAM, self.digest[:16]),),
            buckets=self.buckets,
            tunable=self.is_tuned,
            exact_sizes=self.exact_sizes,
        )

    def shapes(self) -> str:
        """Shapes of the tensors for people, `*` where they follow the number of tokens."""
        rows = []
        for one in self.inputs:
            if one.kind == "tensor":
                sizes = ["*" if dim in one.follows else str(size) for dim, size in enumerate(one.shape)]
                rows.append("x".join(sizes) or "1")
        return " ".join(rows)


@message
class Recording:
    """All requests of one rank, in the order of their digests."""

    schema_version: Literal[1]
    requests: tuple[RecordedRequest, ...]

    @property
    def digest(self) -> str:
        """sha256 over all requests with their sizes: ranks with equal ones are one class."""
        rows = [(one.digest, one.tokens, one.buckets, one.keeps_default) for one in self.requests]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """The requests that are tuned."""
        return tuple(request.workload() for request in self.requests if request.is_tuned)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Each tuned request at each of its buckets."""
        return tasks_of(self.workloads)

    @property
    def every_task(self) -> tuple[Task, ...]:
        """Each request at each of its buckets, also those that keep their default."""
        tasks: list[Task] = []
        for request in self.requests:
            workload = request.workload()
            tasks += [Task(workload, bucket) for bucket in request.buckets]
        return tuple(tasks)

    def with_defaults(self, reasons: Mapping[str, str]) -> Recording:
        """Return the recording with requests that keep their default for a reason: name of the workload -> reason."""
        kept: list[RecordedRequest] = []
        for request in self.requests:
            reason = request.keeps_default or reasons.get(request.workload().name, "")
            kept.append(replace(request, keeps_default=reason))
        return replace(self, requests=tuple(kept))

    def to_bytes(self) -> bytes:
        """Canonical JSON on one line."""
        return (json.dumps(encode(self), sort_keys=True) + "\n").encode()


def recording_of(requests: Iterable[RecordedRequest]) -> Recording:
    """Put requests into the order that every rank uses."""
    return Recording(SCHEMA_VERSION, tuple(sorted(requests, key=lambda one: one.digest)))


def parse_recording(data: bytes | memoryview) -> Recording:
    """Read what `to_bytes` wrote. Raises CorruptArtifactError."""
    try:
        plain = parse_json(bytes(data), MAX_RECORD_BYTES)
    except ValueError as error:
        raise CorruptArtifactError(f"a recording is no JSON: {str(error)[:200]}") from error
    return decode(Recording, plain)


def classes_of(recordings: Sequence[Recording]) -> dict[str, list[int]]:
    """Digest -> the ranks that recorded exactly that, by rank."""
    classes: dict[str, list[int]] = {}
    for rank, recording in enumerate(recordings):
        classes.setdefault(recording.digest, []).append(rank)
    return classes
