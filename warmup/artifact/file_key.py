"""FlashInfer's file key, the text `(op, runner class, shapes, extras)`, taken apart without running it.

The key of a *task* is the same without the runner class: two runner classes compete for one task, and a
table holds one entry per task. Extras may hold dtypes (`torch.bfloat16`) and enum members
(`<Kind.name: 3>`), which are not Python literals; they come back as strings.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.errors import RejectedArtifactError

MAX_KEY_CHARS = 16 * 1024
"""Longer keys are refused: the longest known one (attention with sinks) has under 600 characters."""

_TEXT_OR_ENUM = re.compile(r"""'(?:[^'\\]++|\\.)*+'?|"(?:[^"\\]++|\\.)*+"?|<([A-Za-z_][\w.]*: -?\w+)>""", re.DOTALL)
"""Possessive, and text that does not end goes to the end of the key: linear time."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """One file key, taken apart."""

    op: str
    runner: str
    shapes: tuple[Any, ...]
    extras: tuple[Any, ...]

    @property
    def task(self) -> tuple[str, tuple[Any, ...], tuple[Any, ...]]:
        """The key without the runner class."""
        return self.op, self.shapes, self.extras


@functools.lru_cache(maxsize=4096)
def parse_file_key(text: str) -> FileKey:
    """Take a file key apart. Raises RejectedArtifactError quoting (the beginning of) any other text."""
    if len(text) > MAX_KEY_CHARS:
        raise RejectedArtifactError(f"a table key has {len(text)} characters, more than {MAX_KEY_CHARS}")
    try:
        tree = ast.parse(_TEXT_OR_ENUM.sub(_quote_enum, text), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RejectedArtifactError(f"not a FlashInfer key: {quoted(text)} ({error})") from error
    if not isinstance(value, tuple) or len(value) != 4:
        raise RejectedArtifactError(f"not a FlashInfer key (four fields are expected): {quoted(text)}")
    op, runner, shapes, extras = value
    if not (isinstance(op, str) and op and isinstance(runner, str) and runner):
        raise RejectedArtifactError(f"not a FlashInfer key (op and runner must be names): {quoted(text)}")
    if not (isinstance(shapes, tuple) and all(isinstance(shape, tuple) for shape in shapes)):
        raise RejectedArtifactError(f"not a FlashInfer key (shapes must be tuples): {quoted(text)}")
    if not isinstance(extras, tuple):
        raise RejectedArtifactError(f"not a FlashInfer key (extras must be a tuple): {quoted(text)}")
    return FileKey(op, runner, shapes, extras)


def _value(node: ast.expr) -> Any:
    """The value of literals, tuples, lists (as tuples), signed numbers and dotted names (as strings)."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Attribute():
            return _dotted(node)
    raise ValueError(f"{type(node).__name__} is not allowed")


def _dotted(node: ast.expr) -> str:
    """`torch.bfloat16` from its syntax tree."""
    match node:
        case ast.Attribute(value=owner, attr=name):
            return f"{_dotted(owner)}.{name}"
        case ast.Name(id=name):
            return name
    raise ValueError(f"{type(node).__name__} is not allowed in a dotted name")


def _quote_enum(match: re.Match[str]) -> str:
    """Quote an enum member, leaving quoted text unchanged."""
    if match[1] is None:
        return match[0]
    return repr(match[1])


def quoted(text: str) -> str:
    """A key or name in quotes for a message, only its beginning where it is long."""
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
