"""The events of one run for its driver: queued as they happen, ended by the report, which always comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

from ray_warmup.actors.run.events import Event
from ray_warmup.actors.run.last_report import minimal
from ray_warmup.actors.run.status import RunStatus

SHOWN_EVERY_S, SHOWN_RANKS_PER_S = 2.0, 200
ENDED = "the coordinator ended without a report (internal error, please report)"


class EventStream:
    """Queue of events."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self.began = time.monotonic()
        self._shows_at = self.began
        self.spoke = self.began
        """When the driver was told anything."""

    def emit(self, event: Event) -> None:
        """Queue an event with its time."""
        self.spoke = time.monotonic()
        event["at"] = round(self.spoke - self.began, 3)
        self._queue.put_nowait(event)

    def show(self, status: Callable[[], RunStatus]) -> None:
        """Queue a run's status if it is time. It is no news: a run that is quiet still says whom it waits for."""
        now = time.monotonic()
        if now < self._shows_at:
            return
        seen = status()
        # Fewer of a large run: a status of a thousand ranks weighs a quarter of a megabyte.
        self._shows_at = now + SHOWN_EVERY_S + len(seen.ranks) / SHOWN_RANKS_PER_S
        self._queue.put_nowait({"event": "status", "at": round(now - self.began, 3), "status": asdict(seen)})

    def end(self, report: str) -> None:
        """Queue the report, which ends the stream."""
        self._queue.put_nowait({"event": "report", "report": report})

    async def of(self, work: asyncio.Future[None]) -> AsyncIterator[Event]:
        """Stream the events of some work to its report, or to one that says that none came."""
        while True:
            event = await self._next(work)
            yield event
            if event["event"] == "report":
                break
        # Raises what the work raised, after the report has been told.
        await work

    async def _next(self, work: asyncio.Future[None]) -> Event:
        asked = asyncio.ensure_future(self._queue.get())
        either: set[asyncio.Future[Any]] = {asked, work}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        # All three: events that were queued before the work ended must still be told.
        if work.done() and not asked.done() and self._queue.empty():
            asked.cancel()
            return {"event": "report", "report": minimal(self._run_id, ENDED)}
        return await asked
