"""The wheel resolves beside a released engine, as `python -m tests.engines.resolve` recorded it."""

from __future__ import annotations

import json
import re
import tomllib

from tests.artifacts import ROOT
from tests.engines.resolve import RESULT

PINS = {"vllm==0.33.0": {"vllm": "0.33.0", "torch": "2.14.0", "flashinfer-python": "0.7.2.post1"}}
"""The engine's own pins, which an installation beside it must not move."""


def test_the_engines_pins_are_not_moved() -> None:
    """Each engine resolves with this wheel, in exactly its own versions."""
    rows = {row["engine"]: row for row in json.loads(RESULT.read_text())["engines"]}
    assert set(PINS) <= set(rows)
    for engine, pins in PINS.items():
        assert rows[engine]["resolves"], rows[engine]["error"]
        assert {name: rows[engine]["versions"][name] for name in pins} == pins


def test_a_core_installation_requires_no_library_of_an_engine() -> None:
    """torch, FlashInfer and Triton are in an extra; what the core requires names none of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in project["dependencies"]}
    extra = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in project["optional-dependencies"]["cpu"]}
    assert names & {"torch", "triton", "flashinfer-python"} == set()
    assert {"torch", "triton", "flashinfer-python"} <= extra
