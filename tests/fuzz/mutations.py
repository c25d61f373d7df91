"""Random damage: to bytes, and to the tree of a JSON document before it is written down again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

LENGTHS = (0, 1, 255, 1 << 31, (1 << 64) - 1)
MAX_CHANGES = 6

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 1 << 31, 1 << 64, 10**40, -(10**400), 0.5, -0.0, 1e308, float("inf"),
    float("nan"), "", " ", "0", "0600", "0o600", "\x00", "a\x00b", "\ud800", "\udcff", "é", "\u202e", "x" * 300,
    "x" * 70_000, "~", "~nobody/x", "../../escape", "/etc/passwd", "a/../../b", "/dev/zero", "-1", "nan", "1e999",
    "none", "auto", "cpu", "leader", [], [[]], {}, {"": None}, {"a": {"a": {"a": []}}}, [0, "a", None], {"\ud800": 1},
    [1] * 2000, [-1, 1 << 70],
)  # fmt: skip
"""Values that do not belong where they are put; NaN and infinities are written as Python's json writes them."""


def damage(data: bytes, rng: Random, tokens: Sequence[bytes]) -> bytes:
    """One to six changes: bits flipped, spans cut, repeated or moved, random bytes, lengths and tokens put in."""
    body = bytearray(data)
    for _ in range(rng.randint(1, MAX_CHANGES)):
        rng.choice(_CHANGES)(body, rng.randrange(len(body) + 1), rng, tokens)
    return bytes(body)


def _flip(body: bytearray, at: int, rng: Random, tokens: Sequence[bytes]) -> None:
    if at < len(body):
        body[at] ^= 1 << rng.randrange(8)


def _cut(body: bytearray, at: int, rng: Random, tokens: Sequence[bytes]) -> None:
    end = len(body) if rng.random() < 0.05 else at + rng.randint(0, 40)
    del body[at:end]


def _noise(body: bytearray, at: int, rng: Random, tokens: Sequence[bytes]) -> None:
    body[at:at] = rng.randbytes(rng.randint(1, 16))


def _repeat(body: bytearray, at: int, rng: Random, tokens: Sequence[bytes]) -> None:
    start = rng.randrange(len(body) + 1)
    body[at:at] = body[start : start + rng.randint(1, 200)] * rng.choice((1, 1, 1, 2, 30))


def _length(body: bytearray, at: int, rng: Random, tokens: Sequence[bytes]) -> None:
    body[at : at + 8] = rng.choice(LENGTHS).to_bytes(8, "big")


def _token(body: bytearray, at: int, rng: Random, tokens: Sequence[bytes]) -> None:
    if tokens:
        end = at + rng.choice((0, 0, 1, 4, 12))
        body[at:end] = rng.choice(tokens) * (1 if rng.random() < 0.97 else rng.choice((50, 1500)))


_CHANGES: tuple[Callable[[bytearray, int, Random, Sequence[bytes]], None], ...] = (
    _flip,
    _cut,
    _noise,
    _repeat,
    _length,
    _token,
    _token,
)


def reshape(document: Any, rng: Random) -> Any:
    """A copy of a JSON document with one to six values replaced, removed, renamed, doubled or buried."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, MAX_CHANGES)):
        holders = [node for node in _nodes(copy) if node]
        if not holders:
            return deepcopy(rng.choice(HOSTILE))
        _change(rng.choice(holders), rng)
    return deepcopy(rng.choice(HOSTILE)) if rng.random() < 0.01 else copy


def _nodes(value: Any) -> list[Any]:
    """Every object and array, the outermost first; those of planted values too."""
    found, waiting = [], [value]
    while waiting and len(found) < 400:
        node = waiting.pop(0)
        if isinstance(node, dict | list):
            found.append(node)
            waiting.extend(node.values() if isinstance(node, dict) else node)
    return found


def _change(holder: Any, rng: Random) -> None:
    where = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    kind = rng.randrange(10)
    if kind == 0:
        del holder[where]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "name", "\ud800", "\x00", "_metadata", "x" * 300, "a.b"))] = holder.pop(where)
    elif kind == 2 and isinstance(holder, list):
        holder.append(holder[where])
    elif kind == 3:
        holder[where] = _buried(holder[where], rng.choice((1, 3, 30, 120)))
    elif kind == 4 and isinstance(holder[where], str):
        holder[where] = holder[where][: rng.randrange(len(holder[where]) + 1)] + str(rng.choice(("", "\x00", "'", "(")))
    else:
        holder[where] = deepcopy(rng.choice(HOSTILE))


def _buried(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value
