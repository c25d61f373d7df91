"""Small notes: one typed value in one file, a hint that may be lost."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.codec import decode, encode
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.errors import CorruptArtifactError

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_NOTE_BYTES = 1 << 16


def write_note(path: Path, value: Any) -> None:
    """Publish a message as a note. Raises StoreError."""
    publish_bytes(path, json.dumps(encode(value)).encode() + b"\n")


def read_note(kind: type[T], path: Path, limit: int = MAX_NOTE_BYTES) -> T | None:
    """Return the message of a note, or None if there is none, it is longer than `limit` bytes or cannot be read."""
    try:
        with path.open("rb") as file:
            return decode(kind, parse_json(file.read(limit + 1), limit, str(path)))
    except FileNotFoundError:
        return None
    except (OSError, CorruptArtifactError) as error:
        logger.warning("%s is ignored: %s -> remove the file", path, error)
        return None
