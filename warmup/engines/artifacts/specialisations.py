"""Triton kernels that an engine met, by the specialisations that load them again before they are asked for.

vLLM's monitor reports every kernel of a request that a process has not held before, also one that lies on disk.
Loading the recorded ones before the monitor watches leaves it nothing to report (measured on an H100: 15 kernels in
0.08 s, tests/gpu/results/vllm_study.md).
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SPECIALISATIONS_NAME = "specialisations.jsonl"
"""Name of an artifact's content that holds them."""
KERNELS = "triton_kernels"
"""Name under which recorded and loaded kernels are counted beside the cache kinds."""
COMPILER = "triton.runtime.jit"
"""Module whose kernels are heard."""


@dataclass(frozen=True, slots=True)
class Specialisation:
    """One compiled form of one kernel."""

    function: str
    """`module:name`, as Triton registers it."""
    data: str
    """Argument of Triton's `JITFunction.preload`."""


@dataclass(frozen=True, slots=True)
class Preloaded:
    """Outcome of loading ahead."""

    loaded: int
    failed: tuple[str, ...]


class SpecialisationRecorder:
    """Hears every kernel that this process compiles or loads."""

    def __init__(self, on_new: Callable[[], None]) -> None:
        """`on_new` is called after each specialisation that was not heard before."""
        self._seen: dict[Specialisation, None] = {}
        self._on_new = on_new

    def install(self) -> None:
        """Begin to listen. Imports Triton."""
        knobs = importlib.import_module("triton.knobs")
        _tolerate_what_cannot_be_written(importlib.import_module(COMPILER))
        previous = knobs.runtime.jit_post_compile_hook

        def heard(**event: Any) -> Any:
            self._add(event["fn"], event["compile"].get("specialization_data"))
            if previous is None:
                return None
            return previous(**event)

        knobs.runtime.jit_post_compile_hook = heard

    @property
    def seen(self) -> tuple[Specialisation, ...]:
        """Return the specialisations that were heard so far, in order."""
        return tuple(self._seen)

    def _add(self, function: Any, data: str | None) -> None:
        if data is None:
            return  # a constant that cannot be written: this kernel loads when it is asked for
        new = Specialisation(f"{function.module}:{function.name}", data)
        if new not in self._seen:
            self._seen[new] = None
            self._on_new()


def preload(recorded: Sequence[Specialisation]) -> Preloaded:
    """Load recorded kernels that this process does not hold yet, and name those that cannot be loaded.

    A kernel that it holds must stay: loading it again replaces it, Triton then unloads the old one's code, and a CUDA
    graph that was captured with it dies at its next launch.
    """
    registry = importlib.import_module(COMPILER)._triton_jit_function_registry
    loaded, failed = 0, []
    for row in recorded:
        try:
            if row.function not in registry:
                importlib.import_module(row.function.split(":")[0])
            function = registry[row.function]
            if not _is_held(function, row.data):
                function.preload(row.data)
                loaded += 1
        except Exception as error:  # Triton's and the kernel's own; the engine goes on without it
            failed.append(f"{row.function}: {type(error).__name__}: {error}"[:300])
    return Preloaded(loaded, tuple(failed))


def _is_held(function: Any, data: str) -> bool:
    """Return True if this process has a kernel under the key of a specialisation."""
    driver = importlib.import_module("triton.runtime.driver").driver
    kernels = function.device_caches[driver.active.get_current_device()][0]
    return json.loads(data)["key"] in kernels


def to_bytes(recorded: Sequence[Specialisation]) -> bytes:
    """Write specialisations as one JSON line each."""
    return b"".join(json.dumps([row.function, row.data]).encode() + b"\n" for row in recorded)


def from_bytes(data: bytes | memoryview) -> tuple[Specialisation, ...]:
    """Read what `to_bytes` wrote. Raises ValueError for anything else."""
    rows = [json.loads(line) for line in bytes(data).splitlines()]
    if not all(_is_pair_of_texts(row) for row in rows):
        raise ValueError("a specialisation is a pair of texts")
    return tuple(Specialisation(*row) for row in rows)


def _is_pair_of_texts(row: Any) -> bool:
    return isinstance(row, list) and [type(part) for part in row] == [str, str]


def _tolerate_what_cannot_be_written(jit: Any) -> None:
    """Let Triton go on where a kernel has a constant that JSON cannot hold: a hook would fail its compilation."""
    original = jit.serialize_specialization_data

    @functools.wraps(original)
    def serialize(*arguments: Any, **named: Any) -> Any:
        try:
            return original(*arguments, **named)
        except (TypeError, ValueError):
            return None

    jit.serialize_specialization_data = serialize
