"""Messages between a rank and the fresh process that replays a table for it."""

from __future__ import annotations

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.messages.answers import Replayed, Warmed
from ray_warmup.warmup.tasks import Count, Duration


@message
class FreshReplay:
    """Prepare, load and replay as one rank."""

    config: str
    """As `text_of_config` writes it."""
    rank: Count
    backend: str
    factory: str
    """The tuner as `module:Class`."""
    budget_bytes: Count | None = None
    """Memory that the rank's tasks keep to."""
    engine: bool = True
    """Whether the engine warmups run after the replay."""
    provider: str | None = None
    """Directory of installed modules."""
    triton_cache: str | None = None
    """Its directory; without it nothing is recorded."""
    table: str = ""
    """The file that is loaded."""


@message
class FreshlyReplayed:
    """Outcome of a replay in a fresh process, and the entries that it used."""

    replayed: Replayed
    entries: Count
    seconds: Duration
    triton_entries: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """Names, without those of a provider."""
    engine: Warmed | None = None
    """None when no warmups were asked for."""
