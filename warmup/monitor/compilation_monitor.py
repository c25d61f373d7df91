"""Zero compilation after ready: counts what FlashInfer, Triton and the CuTe-DSL compile, then warns or raises.

Activate the monitor when the process reports ready, and ask it at any time from any thread. Kernels that come from a
disk cache are counted separately from compiled ones, because their first use delays a request too.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Literal, Self

from pydantic import JsonValue

from ray_warmup.warmup.errors import UnexpectedCompilationError
from ray_warmup.warmup.monitor.compile_hooks import Compilation, CompileHook, default_hooks

logger = logging.getLogger(__name__)

Mode = Literal["count", "warn", "raise"]
"""`count`: nothing is said of a compilation, as before ready, where each is expected."""
MAX_EVENTS = 1000
"""Latest events kept; counts go on."""


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """Compilations and loads since a monitor's activation."""

    active: bool
    mode: Mode
    compiled: dict[str, int]
    """Compilations by kind."""
    loaded: dict[str, int]
    """First uses that were served from a disk cache, by kind."""
    unavailable: dict[str, str]
    """Kinds that cannot be seen in this process, and why."""
    events: tuple[Compilation, ...]

    @property
    def is_clean(self) -> bool:
        """Return True if nothing was compiled or loaded."""
        return not any(self.compiled.values()) and not any(self.loaded.values())

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return asdict(self)


class CompilationMonitor:
    """`activate` and `deactivate`, or a `with` block."""

    def __init__(
        self,
        mode: Mode = "warn",
        hooks: Sequence[CompileHook] | None = None,
        listener: Callable[[Compilation], None] | None = None,
    ) -> None:
        """`listener` is told each event after it was counted, on the thread that compiled."""
        self._mode: Mode = mode
        self._listener = listener
        self._hooks = tuple(default_hooks() if hooks is None else hooks)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._active = False
        self._unavailable: dict[str, str] = {}
        self._events: deque[Compilation] = deque(maxlen=MAX_EVENTS)
        self._compiled: dict[str, int] = {hook.kind: 0 for hook in self._hooks}
        self._loaded = dict(self._compiled)

    def activate(self) -> Self:
        """Install every hook that this process supports.

        Raises RuntimeError if active already.
        """
        if self._active:
            raise RuntimeError("the compilation monitor is active already")
        self._active = True
        try:
            for hook in self._hooks:
                if (reason := hook.install(self._record)) is not None:
                    self._unavailable[hook.kind] = reason
                    logger.info("compilation monitor: %s not counted: %s", hook.kind, reason)
        except BaseException:
            self.deactivate()
            raise
        return self

    def deactivate(self) -> None:
        """Remove every hook, last installed first.

        Does nothing if inactive.
        """
        for hook in reversed(self._hooks):
            hook.remove()
        self._active = False

    def __enter__(self) -> Self:
        return self.activate()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()

    @contextmanager
    def running(self, shape: str) -> Iterator[None]:
        """Name what this thread runs, for the reports of the body."""
        before = getattr(self._local, "shape", "")
        self._local.shape = shape
        try:
            yield
        finally:
            self._local.shape = before

    def report(self) -> MonitorReport:
        """Return the counts so far."""
        with self._lock:
            return MonitorReport(
                active=self._active,
                mode=self._mode,
                compiled=dict(self._compiled),
                loaded=dict(self._loaded),
                unavailable=dict(self._unavailable),
                events=tuple(self._events),
            )

    def _record(self, event: Compilation) -> None:
        event = replace(event, shape=getattr(self._local, "shape", ""))
        with self._lock:
            counter = self._loaded if event.from_disk else self._compiled
            counter[event.kind] += 1
            self._events.append(event)
        if self._listener is not None:
            self._listener(event)
        if self._mode == "raise":
            raise UnexpectedCompilationError(f"after ready, {event}", kind=event.kind, kernel=event.kernel)
        logger.log(logging.DEBUG if self._mode == "count" else logging.WARNING, "after ready, %s", event)
