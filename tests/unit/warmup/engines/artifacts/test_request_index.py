"""A request's own words lead to what was recorded for it; other words, and damaged notes, lead nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.engines.artifacts import request_index
from ray_warmup.warmup.engines.artifacts.request_index import RequestRow, request_digest

ASKED: dict[str, Any] = {
    "engine": "vllm",
    "version": "0.33.0",
    "device": "H100",
    "arguments": {"model": "m", "max_num_batched_tokens": 8192},
}
ROW = RequestRow("vllm", "0.33.0", "ab" * 32)


def digest(*options: str, **changes: Any) -> str:
    """The digest of ASKED with changes."""
    asked = ASKED | changes
    return request_digest(asked["engine"], asked["version"], asked["device"], asked["arguments"], *options)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.32.0"},
        {"device": "H200"},
        {"arguments": {"model": "m", "max_num_batched_tokens": 2048}},
    ],
)
def test_another_request_has_another_digest(changes: dict[str, Any]) -> None:
    """Version, device and every argument count; so do the further words."""
    assert digest("dummy", "serve", **changes) != digest("dummy", "serve")
    assert digest("dummy", "llm") != digest("dummy", "serve")
    assert digest("dummy", "serve", arguments=dict(reversed(ASKED["arguments"].items()))) == digest("dummy", "serve")


def test_what_was_noted_is_found(tmp_path: Path) -> None:
    """Under its digest alone."""
    request_index.note(tmp_path, digest(), ROW)
    assert request_index.find(tmp_path, digest()) == ROW
    assert request_index.find(tmp_path, digest("other")) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"engine": 1, "version": "v", "key_sha256": "k"}'])
def test_a_damaged_note_leads_nowhere(tmp_path: Path, text: str) -> None:
    """It is a hint: whoever asks records anew."""
    request_index.note(tmp_path, digest(), ROW)
    for file in (tmp_path / "engine_caches" / "requests").iterdir():
        file.write_text(text)
    assert request_index.find(tmp_path, digest()) is None
