"""Index of the requests that were recorded on this node, read before an engine is started.

    <root>/engine_caches/requests/<request digest>.json      {"engine", "version", "key_sha256"}

Only a hint: the start that proves an artifact computes its identity anew, and a row that leads nowhere is a miss.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.engines.artifacts.engine_store import recorded_facts
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.notes import read_note, write_note

FOLDER = "requests"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@message
class RequestRow:
    """The identity under which a request was recorded."""

    engine: str
    version: str
    key_sha256: str


def request_digest(engine: str, version: str, device: str, arguments: Mapping[str, JsonValue], *options: str) -> str:
    """Digest what a user asked of which engine on which device.

    Args:
        engine: `vllm`.
        version: of the engine.
        device: the GPU's name; the processor's architecture without one.
        arguments: the engine's own, without secrets.
        options: further words of the request: weights, and whose defaults hold.
    """
    asked = json.dumps([engine, version, device, dict(arguments), *options], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def note(root: Path, digest: str, row: RequestRow) -> None:
    """Keep the identity of a request. Raises StoreError."""
    write_note(_file(root, digest), row)


def find(root: Path, digest: str) -> RequestRow | None:
    """Return the identity of a request.

    None where nothing is noted or the note cannot be read.
    """
    return read_note(RequestRow, _file(root, digest))


def note_recorded(root: Path, store: NodeStore) -> RequestRow | None:
    """Keep the identity of the request that a store's artifact was recorded for, as the artifact itself tells it.

    Returns None for one that names no request. Raises StoreError, CorruptArtifactError.
    """
    request = recorded_facts(store).request
    if not _DIGEST.fullmatch(request):
        return None
    _, manifest = store.current()
    identity = dict(manifest.key.parts)
    row = RequestRow(identity["engine"], identity["engine_version"], manifest.key.sha256)
    note(root, request, row)
    return row


def _file(root: Path, digest: str) -> Path:
    return root / ENGINE_CACHES / FOLDER / f"{digest}.json"
