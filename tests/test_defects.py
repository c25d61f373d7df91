"""`tests/DEFECTS.md`: each known defect has a test, and each test that it names exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.artifacts import ROOT

LINES = [line for line in (ROOT / "tests/DEFECTS.md").read_text().splitlines() if re.match(r"\| [HMLD]\d", line)]
NUMBERS = [
    *(f"H{number}" for number in range(1, 7)),
    *(f"M{number}" for number in range(1, 17)),
    *(f"L{number}" for number in range(1, 13)),
    *(f"D{number}" for number in range(1, 19)),
]


def named(line: str) -> list[tuple[str, str]]:
    """File and name of each test of a line."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)


def test_every_number_has_a_line() -> None:
    """None is forgotten, and none stands twice."""
    assert [line.split("|")[1].strip() for line in LINES] == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=NUMBERS)
def test_the_tests_of_a_defect_exist(line: str) -> None:
    """Each is a function of its file that asserts something."""
    assert named(line)
    for file, name in named(line):
        functions = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if _is(node, name)]
        assert len(functions) == 1, f"{file}::{name}"
        assert any(isinstance(node, ast.Assert | ast.With) for node in ast.walk(functions[0])), f"{file}::{name}"


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
