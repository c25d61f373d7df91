"""Many damaged inputs into one reader: every outcome is counted, everything that should not happen is a finding."""

from __future__ import annotations

import logging
import resource
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.readers import MAX_MESSAGE, Reader
from tests.fuzz.watch import watching

SLOW_S = 2.0
"""CPU seconds that one input may cost."""
MAX_GROWTH_BYTES = 192 << 20
"""How much more memory a whole campaign may need than its process had before."""


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Campaign:
    """What one reader did with its inputs."""

    reader: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    """Outcome -> inputs: `taken`, or the class of the refusal."""
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest_s: float = 0.0
    """CPU seconds of the input that took longest."""
    growth_bytes: int = 0


def case(reader: Reader, seed: int, number: int) -> bytes:
    """The input of this number: it follows from the three alone. The first ones are the samples as they are."""
    if number < len(reader.samples):
        return reader.samples[number]
    return reader.make(Random(f"{reader.name}/{seed}/{number}"), reader.samples)


def fuzz(
    reader: Reader, cases: int, seed: int, own: Path, *, first: int = 0, peak: Callable[[], int] = peak_bytes
) -> Campaign:
    """Feed `cases` damaged inputs to a reader that may write below `own` only."""
    result = Campaign(reader.name, seed)
    began, before = time.perf_counter(), peak()
    logging.disable(logging.WARNING)  # what is left out of a store is logged, each time
    try:
        for number in range(first, first + cases):
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            _one(reader, number, own, result)
            if (growth := peak() - before) > MAX_GROWTH_BYTES:
                result.findings.append(f"case {number}: {growth >> 20} MiB more memory than before")
                before = peak()
            result.growth_bytes = max(result.growth_bytes, growth)
    finally:
        logging.disable(logging.NOTSET)
    result.seconds = time.perf_counter() - began
    return result


def _one(reader: Reader, number: int, own: Path, result: Campaign) -> None:
    data = case(reader, result.seed, number)
    cpu = time.process_time()
    try:
        with watching(own) as strays, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(data, own)
        outcome = "taken"
    except reader.refusals as refusal:
        outcome = type(refusal).__name__
        if problem := _unreadable(str(refusal)):
            result.findings.append(f"case {number}: {outcome} {problem}")
    except (Exception, RecursionError, MemoryError) as error:  # the border of what is under test
        outcome = f"! {type(error).__name__}"
        result.findings.append(f"case {number}: {type(error).__name__}: {str(error)[:200]!r} for {data[:120]!r}")
    took = time.process_time() - cpu
    result.counts[outcome] += 1
    result.slowest_s = max(result.slowest_s, took)
    if took > SLOW_S:
        result.findings.append(f"case {number}: {took:.1f} s of CPU for {len(data)} bytes")
    result.findings += [f"case {number}: outside its directory: {stray}" for stray in strays]


def _unreadable(message: str) -> str:
    """What is wrong with a refusal's message for the person who reads it."""
    if not message.strip():
        return "says nothing"
    if len(message) > MAX_MESSAGE:
        return f"has a message of {len(message)} characters"
    try:
        message.encode()
    except UnicodeEncodeError:
        return "has a message that no terminal can print"
    return ""
