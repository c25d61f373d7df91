"""The wheel resolves beside a released engine, as `python -m tests.engines.resolve` recorded it."""

from __future__ import annotations

import json
import re
import tomllib

from tests.artifacts import ROOT
from tests.engines.contracts import RESULT as CONTRACT_RESULT
from tests.engines.resolve import RESULT

RECORDED = ("torch", "flashinfer-python")
"""Libraries that an engine pins in its metadata, and that an installation beside it must not move."""


def test_the_engines_pins_are_not_moved() -> None:
    """Each engine resolves with this wheel, in exactly its own versions."""
    rows = {row["engine"]: row for row in json.loads(RESULT.read_text())["engines"]}
    for row in json.loads(CONTRACT_RESULT.read_text())["rows"]:
        found = rows[f"{row['engine']}=={row['version']}"]
        assert found["resolves"], found["error"]
        exact = {name: rule[2:] for name, rule in row["pins"].items() if rule.startswith("==") and name in RECORDED}
        assert {name: found["versions"][name].partition("+")[0] for name in exact} == exact


def test_a_core_installation_requires_no_library_of_an_engine() -> None:
    """torch, FlashInfer and Triton are in an extra; what the core requires names none of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in project["dependencies"]}
    extra = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in project["optional-dependencies"]["cpu"]}
    assert names & {"torch", "triton", "flashinfer-python"} == set()
    assert {"torch", "triton", "flashinfer-python"} <= extra
