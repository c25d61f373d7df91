"""Completion of what a serving engine has left: a proof start adds what it compiled itself.

An engine hands in what it compiled as soon as it is warm. Kernels that only requests compile are not among that (vLLM
0.33 on an H200: 23 Triton kernels of sampling, measured), so a proof start compiles them and does not hold. What was
left and what the start compiled become one artifact, which another proof start must use. That is done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.engines.artifacts.engine_store import COMPLETED, OFFERED
from ray_warmup.warmup.engines.launcher.captured_artifact import collect
from ray_warmup.warmup.engines.launcher.proof import problems_of
from ray_warmup.warmup.engines.start.engine_start import Started
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.signing.policy import cannot_sign
from ray_warmup.warmup.store.node_store import NodeStore

OURS = "engine_record"


class Completion:
    """The end of one proof start, looked at while its home is there."""

    def __init__(self, store: NodeStore, arguments: Mapping[str, JsonValue], request: str) -> None:
        """Keep what the artifact would be packed with.

        Args:
            store: of the artifact that is proven.
            arguments: of the engine, without secrets.
            request: digest of the request.
        """
        self._store, self._arguments, self._request = store, arguments, request
        self.artifact: Artifact | None = None
        """The completed artifact; None where the proof holds, or more than entries was missing."""
        self.trouble = ""
        """Why there is none although entries alone were missing."""

    def take(self, started: Started, home: Path) -> None:
        """Pack what the artifact has and what the start has compiled. Never raises for the content of the disk."""
        if not problems_of(started) or not _lacks_entries_alone(started):
            return
        try:
            if self._store.current()[1].strategy != OFFERED:
                return
            self.trouble = cannot_sign()
            if self.trouble:
                return
            further = _contents_of(self._store)
            self.artifact = collect(started, home, self._arguments, self._request, further, strategy=COMPLETED)
        except (WarmupError, OSError) as error:
            self.trouble = f"what the proof start compiled cannot be added: {error}"


def _lacks_entries_alone(started: Started) -> bool:
    """Every rank placed the artifact, reached the end of its warmup, and heard every compiler."""
    return all(told.lookup == "hit" and told.is_warm and not told.deaf for told in started.records)


def _contents_of(store: NodeStore) -> list[Content]:
    """Every content of the current artifact but the record of whoever left it."""
    artifact = store.read_artifact()
    contents: list[Content] = []
    for kind in dict.fromkeys(blob.kind for blob in artifact.manifest.blobs):
        if kind != OURS:
            contents += artifact.contents(kind)
    return contents
