"""Tell the registry what a run has left, as long as Ray can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_warmup.actors.run.events import OnEvent
from ray_warmup.configs.schema import CacheSection

if TYPE_CHECKING:
    from ray_warmup.actors.connection.control_service import ControlService


def announce(service: ControlService, cache: CacheSection, on_event: OnEvent) -> None:
    """Tell the registry, and report what it says as notes.

    Without the control service nothing is asked: Ray's search for the registry would last until it ends this process.
    """
    from ray_warmup.actors.registry.client import tell_registry

    if not service.is_reachable():
        return
    for note in tell_registry(cache):
        on_event({"event": "note", "at": 0.0, "text": note})
