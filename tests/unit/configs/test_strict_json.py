"""JSON of others: bounded in size and depth, one meaning, no value that a later reader stumbles over."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.configs.strict_json import MAX_DEPTH, parse_json

LIMIT = 1 << 20


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    """A text with so many levels of brackets."""
    return opening * depth + "1" + closing * depth


def test_what_is_plain_comes_back() -> None:
    """Every kind of value, also from a view, with brackets and quotes inside text."""
    value = {"a": [1, -2.5, None, True, '[{"\\'], "b": {"c": "]" * 100}}
    data = json.dumps(value).encode()
    assert parse_json(data, LIMIT) == parse_json(memoryview(data), LIMIT) == parse_json(data.decode(), LIMIT) == value


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, sys.getrecursionlimit() * 2, 200_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_nesting_is_refused_at_any_depth(depth: int, brackets: tuple[str, str]) -> None:
    """Also where Python's own reader would still manage, and whoever walks over the value would not."""
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH} at character"):
        parse_json(nested(depth, *brackets), LIMIT * 4)


def test_the_deepest_that_is_read() -> None:
    """Exactly the limit, and nothing that is open twice side by side counts as depth."""
    assert parse_json(nested(MAX_DEPTH), LIMIT)
    assert parse_json("[" + ",".join(["[]"] * 500) + "]", LIMIT) == [[]] * 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"x": {"b": 1, "b": 1}}', "'b' occurs twice"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e999", "too large for a number"),
        ("[" + "9" * 5000 + "]", "digits"),
        ('"open', "Unterminated"),
        ("", "Expecting value"),
        ("[1]" * 2, "Extra data"),
        (" " * (LIMIT + 1), f"at most {LIMIT} are read"),
    ],
)
def test_what_is_refused_is_named(text: str, words: str) -> None:
    """One ValueError that says what is wrong."""
    with pytest.raises(ValueError, match=words):
        parse_json(text, LIMIT)


@pytest.mark.parametrize("data", [b"\xff\xfe[\x00]\x00", b'"\xff"', b"\xed\xa0\x80"])
def test_other_encodings_are_refused(data: bytes) -> None:
    """Only UTF-8 is read."""
    with pytest.raises(ValueError, match="utf-8"):
        parse_json(data, LIMIT)


def test_constants_are_read_where_python_wrote_them() -> None:
    """Hugging Face configurations may hold Infinity in fields that nobody reads."""
    assert parse_json('{"a": [Infinity, -Infinity]}', LIMIT, allow_constants=True) == {
        "a": [float("inf"), -float("inf")]
    }


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_json_writes_is_read(value: Any) -> None:
    """Whatever Python writes without constants comes back equal."""
    assert parse_json(json.dumps(value), LIMIT) == value
