"""Reports of either engine: parse one, or find it as a file or as a run of this machine's history."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.disk.reading import read_named
from ray_warmup.warmup.engines.reports.report import EngineReport
from ray_warmup.warmup.errors import CorruptArtifactError
from ray_warmup.warmup.report import MAX_REPORT_BYTES, WarmupReport
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.run_history import report_of

Report = WarmupReport | EngineReport


def parse_report(data: bytes) -> Report:
    """Return a report of either engine. Raises ArtifactError for anything else, naming the field."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise CorruptArtifactError(f"report: is not valid JSON: {error}") from error
    if isinstance(document, dict) and "nodes" in document and "classes" not in document:
        return EngineReport.from_text(data.decode())
    return WarmupReport.from_json(data)


def find_report(source: str, root: Path | None = None) -> Report:
    """Return the report of a file, or of the newest run here whose id begins so.

    Args:
        source: a path, or the beginning of a run's id.
        root: cache root of the history, instead of this node's own.

    Raises:
        StoreError: there is no such file and no such run.
        ArtifactError: it is no report of this version.
    """
    if os.sep in source or Path(source).is_file():
        return parse_report(read_named(Path(source), MAX_REPORT_BYTES))
    return parse_report(report_of(root or resolve_paths(CacheSection()).root, source))
