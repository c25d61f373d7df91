"""Description of an artifact that a writer published: its files, and the bytes that it was sent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Iterable
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import MAX_BLOB_BYTES
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.report import FileReport

logger = logging.getLogger(__name__)


def described(paths: Iterable[Path], info: RankInfo) -> tuple[FileReport, ...]:
    """Describe published files for the report, without those that another job has removed."""
    found = []
    for path in paths:
        try:
            data = read_regular(path, MAX_BLOB_BYTES)
        except (FileNotFoundError, WarmupError) as error:
            logger.info("%s: %s is not there any more: %s", info, path, error)
            continue
        digest = hashlib.sha256(data).hexdigest()
        found.append(FileReport(node_id=info.node_id, path=str(path), sha256=digest, bytes=len(data)))
    return tuple(found)


def received(header: Header, pushed: Container[str]) -> dict[str, int]:
    """Kind -> bytes of the blobs that were pushed. A kind that was here already counts 0."""
    found: dict[str, int] = {}
    for row in header.blobs:
        size = row.bytes if row.sha256 in pushed else 0
        found[row.kind] = found.get(row.kind, 0) + size
    return found
