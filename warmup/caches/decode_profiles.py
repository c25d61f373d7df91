"""FlashInfer's calibration of sparse-MLA decode (SM120 family): a JSON file of profiles by device, beside the table.

Installed where FlashInfer looks for it. A file that is there already keeps what only it has: it may hold profiles of
other models.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError

logger = logging.getLogger(__name__)

FILE_NAME = "sparse_mla_sm120_cpb.json"
"""FlashInfer's own name."""
MAX_BYTES = 64 << 20


def directory(environ: Mapping[str, str], flashinfer_base: Path, version: str, arch: str) -> Path:
    """Return the file's directory for a process with this environment (FlashInfer 0.7.2: `default_cache_path`)."""
    override = environ.get("FLASHINFER_AUTOTUNE_DIR")
    if override:
        return Path(override)
    return flashinfer_base / ".cache" / "flashinfer" / version / arch / "autotune"


def install(contents: Sequence[Content], directory: Path, *, modes: Modes = OWNER_ONLY) -> list[Path]:
    """Merge shipped profiles into this node's file, and return the file if it was written.

    Raises CorruptArtifactError for profiles that are no JSON object, StoreError when the disk refuses.
    """
    shipped = next((content for content in contents if content.path == FILE_NAME), None)
    if shipped is None:
        return []
    path = directory / FILE_NAME
    added: Any = parse_json(shipped.data, MAX_BYTES, f"sparse_mla/{FILE_NAME}")
    if not isinstance(added, dict):
        raise CorruptArtifactError(f"sparse_mla/{FILE_NAME} is not a JSON object")
    present = _present(path)
    merged = _merged(present, added)
    if merged == present:
        return []
    publish_bytes(path, json.dumps(merged, sort_keys=True).encode(), modes=modes)
    return [path]


def _present(path: Path) -> dict[str, JsonValue]:
    """Read the node's profiles.

    Damaged content counts as none. Raises StoreError for a file that cannot be opened.
    """
    try:
        document = parse_json(read_regular(path, MAX_BYTES), MAX_BYTES, str(path))
    except FileNotFoundError:
        return {}
    except CorruptArtifactError as error:
        logger.info("%s cannot be read and is replaced: %s", path, error)
        return {}
    if not isinstance(document, dict):
        return {}
    return document


def _merged(present: dict[str, JsonValue], added: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Merge two documents key by key, preferring the shipped one."""
    merged = {**present, **added}
    for name in present.keys() & added.keys():
        old, new = present[name], added[name]
        if isinstance(old, dict) and isinstance(new, dict):
            merged[name] = _merged(old, new)
    return merged
