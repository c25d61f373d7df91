"""Small real artifacts for tests: every value can be replaced, nothing here stands in for project code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_warmup.warmup.artifact.artifact import Artifact, Content, pack, sha256, table_content
from ray_warmup.warmup.artifact.manifest import GuardSummary, key_digest
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.timings import timings_content
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult

ROOT = Path(__file__).resolve().parents[1]
KEY = {"flashinfer": "0.7.2.post1", "gpu": "NVIDIA H200", "driver": "580.1"}
KEY_SHA256 = key_digest(KEY.items())


def table_bytes(number: int, size: int = 0) -> bytes:
    """A table whose content tells which publish it came from, padded to at least `size` bytes."""
    return json.dumps({"number": number, "padding": "x" * size}).encode()


def file_key(op: str = "cpu_gemm", runner: str = "Fast", m: int = 1) -> str:
    """A key as FlashInfer writes it."""
    return str((op, runner, ((m, 64), (64, 64)), ()))


def make_result(task_id: str = "a@1", **changes: Any) -> TaskResult:
    """A tuned task with two runners, whose keys are FlashInfer's."""
    op, bucket = changes.pop("op", "cpu_gemm"), changes.pop("bucket", 1)
    values: dict[str, Any] = {
        "choice": Choice("Fast", (1, 2)),
        "keys": {name: file_key(op, name, bucket) for name in ("First", "Fast")},
        "policy": ("l2", "hot"),
        "measurements": (Measurement("Fast", (1, 2), 1e-4, 0.0, 3),),
        **changes,
    }
    outcome = values.pop("outcome", "tuned")
    return TaskResult(task_id, op, bucket, outcome, default_runner=values.pop("default_runner", "First"), **values)


def make_artifact(number: int = 1, **changes: Any) -> Artifact:
    """An artifact with a table, timings and one module; `contents`, `key`, `guard` and others can be replaced."""
    table = changes.pop("table", table_bytes(number))
    default = [Content("flashinfer_module", "gemm/gemm.so", b"gemm" * 2000)]
    if table is not None:
        rows = [TimingRow(make_result(elapsed_s=number / 1e6))]
        default += [table_content(table), timings_content(sha256(table), rows)]
    key: Mapping[str, str] = changes.pop("key", KEY)
    values: dict[str, Any] = {
        "key_sha256": key_digest(key.items()),
        "fingerprint": {"torch": "2.13.0"},
        "created_at": 1_700_000_000.0 + number,
        "strategy": "leader",
        "guard": GuardSummary("guarded", {"kept": 1}),
        **changes,
    }
    return pack(values.pop("contents", default), key=key, **values)
