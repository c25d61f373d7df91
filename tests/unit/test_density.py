"""Density of the product's expressions: those that need a second reading, and all conditionals and comprehensions.

An expression is dense if it is

- a comprehension with a condition, with two loops, or with another comprehension or a conditional inside;
- a conditional expression whose condition holds `and` or `or`, or with another conditional inside;
- a chain of three or more operands of `and` and `or`, or one that mixes both.

A comprehension with one loop and no condition is plain. The other figure counts every conditional expression and
every comprehension, dense or plain. It was 45.6 in 1,000 lines when it was first measured, against 9 to 17 in other
projects of this kind. Both figures may only go down: name the step, or write a loop.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "warmup", "actors", "scripts")
MAX_DENSE = 9.1
"""Dense expressions in 1,000 lines."""
MAX_ALL = 22.6
"""Conditional expressions and comprehensions in 1,000 lines."""
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def inside(node: ast.AST, kinds: tuple[type[ast.AST], ...]) -> bool:
    """Whether an expression holds another one of these kinds."""
    return any(isinstance(child, kinds) for child in ast.walk(node) if child is not node)


def is_dense(node: ast.AST) -> bool:
    """Whether an expression needs a second reading, as the module says."""
    if isinstance(node, COMPREHENSIONS):
        has_condition = any(loop.ifs for loop in node.generators)
        return has_condition or len(node.generators) > 1 or inside(node, (*COMPREHENSIONS, ast.IfExp))
    if isinstance(node, ast.IfExp):
        return isinstance(node.test, ast.BoolOp) or inside(node, (ast.IfExp,))
    if isinstance(node, ast.BoolOp):
        return len(node.values) > 2 or any(isinstance(value, ast.BoolOp) for value in node.values)
    return False


def counted(text: str) -> tuple[int, int]:
    """Dense expressions, and all conditional expressions and comprehensions."""
    nodes = list(ast.walk(ast.parse(text)))
    dense = sum(is_dense(node) for node in nodes)
    return dense, sum(isinstance(node, (*COMPREHENSIONS, ast.IfExp)) for node in nodes)


def test_planted_expressions_are_counted() -> None:
    """Each kind of a dense expression is seen, and plain ones are not dense."""
    for text in (
        "[a for a in b if a]",
        "[a for b in c for a in b]",
        "{a: [d for d in c] for a, c in b}",
        "[a if a else 1 for a in b]",
        "a if b and c else d",
        "a if b else c if d else e",
        "a and b and c",
        "a and (b or c)",
    ):
        assert counted(text)[0] >= 1, text
    for text in ("[a for a in b]", "a if b else c", "a and b", "not a or b"):
        assert counted(text)[0] == 0, text
    assert counted("[a for a in b]; c if d else e; f and g")[1] == 2


def test_expressions_do_not_become_denser() -> None:
    """Both figures stay below their limits."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    lines = sum(path.read_text().count("\n") for path in files)
    counts = [counted(path.read_text()) for path in files]
    dense = 1000 * sum(dense for dense, _ in counts) / lines
    everything = 1000 * sum(all_ for _, all_ in counts) / lines
    assert dense <= MAX_DENSE, f"{dense:.1f} dense expressions in 1,000 lines"
    assert everything <= MAX_ALL, f"{everything:.1f} conditional expressions and comprehensions in 1,000 lines"
