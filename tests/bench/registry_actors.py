"""Processes of `bench_registry.py`: each becomes warm on its simulated node, without a device."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PLACED_AND_PROVEN = ("COMPILING", "INSTALLING", "LOADING", "REPLAYING")
"""Phases that put an artifact's parts in place, and prove them."""


class Member:
    """One process of a node."""

    def prepare(self, script: str) -> int:
        """Import what a join needs, and follow a script (`tests/script.py`). Returns its pid."""
        os.environ["RAY_WARMUP_TEST_SCRIPT"] = script
        import ray_warmup.actors.joining.warm_joiner
        import tests.fakes

        assert ray_warmup.actors.joining.warm_joiner
        assert tests.fakes
        return os.getpid()

    def join(self, config: str) -> dict[str, Any]:
        """Become warm: seconds, and those of each phase."""
        from ray_warmup.actors.joining.warm_joiner import ensure_warm
        from ray_warmup.configs.loader import config_of_text

        request = config_of_text(config)
        began = time.perf_counter()
        report = ensure_warm(request, tuner="tests.fakes:make_scripted_tuner", on_note=lambda note: None)
        seconds = time.perf_counter() - began
        assert report.ready, report.error
        return {"seconds": seconds, "phases": report.phases, "measured": report.classes[0].measured}

    def join_often(self, config: str, times: int) -> list[tuple[float, float, float]]:
        """Become warm again and again: of each time the seconds beyond placing and proving, in fsync, and of CPU."""
        found = []
        for _ in range(times):
            with counted_fsync() as spent:
                began = time.thread_time()
                one = self.join(config)
                cpu_s = time.thread_time() - began
            assert one["measured"] == 0
            beyond_s = one["seconds"] - sum(one["phases"].get(name, 0.0) for name in PLACED_AND_PROVEN)
            found.append((beyond_s, sum(spent), cpu_s))
        return found

    def copy(self, size: int, directory: str) -> float:
        """Read, hash and write so many random bytes, as one process of this node does at least: seconds."""
        source, target = Path(directory, "source"), Path(directory, "target")
        source.write_bytes(os.urandom(size))
        began = time.perf_counter()
        data = source.read_bytes()
        hashlib.sha256(data).hexdigest()
        with target.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
        source.unlink()
        target.unlink()
        return seconds


@contextmanager
def counted_fsync() -> Iterator[list[float]]:
    """Collect the seconds of every fsync of this process."""
    real, spent = os.fsync, list[float]()

    def timed(descriptor: Any) -> None:
        began = time.perf_counter()
        real(descriptor)
        spent.append(time.perf_counter() - began)

    os.fsync = timed  # type: ignore[assignment]
    try:
        yield spent
    finally:
        os.fsync = real
