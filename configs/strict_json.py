"""JSON that others wrote, read within bounds: one meaning for every text, and nothing that a reader can stumble over.

Refused are names given twice in one object (Python keeps the last one silently), NaN and infinities, numbers too large
for a float, other encodings than UTF-8, and nesting that a recursive reader could not follow.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from ray_warmup.configs.errors import shown

MAX_DEPTH = 32
"""Nesting of brackets; nothing that this project reads or writes has more than 12."""
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""Brackets outside text. Possessive, and text that does not end goes to the end: no memory and linear time."""


def parse_json(
    data: bytes | memoryview | str, limit: int, *, max_depth: int = MAX_DEPTH, allow_constants: bool = False
) -> Any:
    """The value that at most `limit` bytes (or characters) stand for.

    `allow_constants`: NaN and infinities are read, as Python writes them. Raises ValueError with what is wrong.
    """
    if len(data) > limit:
        raise ValueError(f"it has {len(data)} bytes, at most {limit} are read")
    text = data if isinstance(data, str) else bytes(data).decode("utf-8")
    # Before parsing, because Python's parser recurses and deep nesting ends the process.
    _refuse_depth(text, max_depth)
    if allow_constants:
        return json.loads(text, object_pairs_hook=_unique)
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _refuse_depth(text: str, most: int) -> None:
    depth = 0
    for token in _BRACKETS.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > most:
                raise ValueError(f"it is nested deeper than {most} at character {token.start()}")
        elif token[0] in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> object:
    found: dict[str, Any] = {}  # a border: any JSON object
    for name, value in pairs:
        # Readers differ in which of two equal names counts, so a signature could cover another value.
        if name in found:
            raise ValueError(f"{shown(name)} occurs twice in one object")
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    # Python reads 1e999 as infinity, which no JSON writer may write again.
    if math.isinf(number):
        raise ValueError(f"{shown(text)} is too large for a number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
