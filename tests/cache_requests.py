"""Cache commands for tests: arguments by name in, the document of `--json` out."""

from __future__ import annotations

import json
from typing import Any

from ray_warmup.warmup.cache_admin.command import perform as perform_request
from ray_warmup.warmup.cache_admin.requests import CacheRequest, Exported


def perform(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a command and return its document, with the bytes of an archive that was exported to no file."""
    answer = perform_request(command, CacheRequest(**arguments))
    document: dict[str, Any] = json.loads(json.dumps(answer.to_json()))
    if isinstance(answer.result, Exported) and answer.result.data is not None:
        document["result"]["data"] = answer.result.data
    return document
