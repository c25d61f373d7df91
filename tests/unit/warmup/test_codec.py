"""Frozen dataclasses across a border: equal on the other side, and strict about everything that could be otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ray_warmup.warmup.codec import Tactic, decode, encode, message
from ray_warmup.warmup.errors import CorruptArtifactError
from tests.artifacts import ROOT


@message
class Inner:
    """A nested message."""

    seconds: Annotated[float, Field(ge=0, le=10)]
    tactic: Tactic = -1
    kind: Literal["fast", "slow"] = "fast"


@message
class Outer:
    """One with every kind of field."""

    name: str
    inner: Inner | None
    many: tuple[Inner, ...] = ()
    by_rank: dict[int, tuple[str, ...]] = field(default_factory=dict)
    is_ready: bool = False
    count: int = 0


@dataclass(frozen=True)
class Plain:
    """A dataclass that is no message."""

    name: str


WHOLE = Outer("a", Inner(1.5, (1, (2, "x"), None)), (Inner(0.0), Inner(2, kind="slow")), {3: ("n",)}, True, 7)


def test_a_message_comes_back_equal() -> None:
    """Through plain values, and through JSON text, nested and hashable."""
    plain = encode(WHOLE)
    assert decode(Outer, plain) == decode(Outer, json.loads(json.dumps(plain))) == WHOLE
    assert decode(Outer, plain).inner == WHOLE.inner
    assert hash(decode(Outer, plain).inner) == hash(WHOLE.inner)
    assert plain["inner"]["tactic"] == [1, [2, "x"], None]


def test_a_message_is_frozen() -> None:
    """Nobody changes one on its way."""
    with pytest.raises(FrozenInstanceError):
        WHOLE.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "Outer: name: None: Input should be a valid string"),
        ({"name": 3}, "Outer: name: 3: Input should be a valid string"),
        ({"count": True}, "Outer: count: True: Input should be a valid integer"),
        ({"count": 1.0}, "Outer: count: 1.0: Input should be a valid integer"),
        ({"count": "1"}, "Outer: count: '1': Input should be a valid integer"),
        ({"is_ready": 1}, "Outer: is_ready: 1: Input should be a valid boolean"),
        ({"inner": {"seconds": True}}, "Outer: inner.seconds: True: Input should be a valid number"),
        ({"inner": {"seconds": float("nan")}}, "Outer: inner.seconds: nan: Input should be"),
        ({"inner": {"seconds": float("inf")}}, "Outer: inner.seconds: inf: Input should be"),
        ({"inner": {"seconds": 11}}, "Outer: inner.seconds: 11: Input should be less than or equal to 10"),
        ({"inner": {"seconds": -1e-9}}, "Outer: inner.seconds: -1e-09: Input should be greater than or equal to 0"),
        ({"inner": {}}, "Outer: inner.seconds: Field required"),
        ({"inner": {"seconds": 1, "tactic": [[1, {}]]}}, "Outer: inner.tactic: [[1, {}]]: must be a number, text or"),
        ({"inner": {"seconds": 1, "tactic": float("inf")}}, "Outer: inner.tactic: inf: must be a finite number"),
        (
            {"many": [{"seconds": 1}, {"seconds": 1, "kind": "odd"}]},
            "Outer: many.1.kind: 'odd': Input should be 'fast'",
        ),
        ({"many": {"seconds": 1}}, "Outer: many: {...}: Input should be a valid array"),
        ({"by_rank": {"x": []}}, "Outer: by_rank.x"),
        ({"extra": 1}, "Outer: extra: 1: Unexpected keyword argument"),
        ({"name": 1, "count": "1", "extra": 1}, "Outer: name: 1: Input should be a valid string (2 more)"),
        ({"name": {1, 2}}, "Outer: is no JSON: Object of type set"),
    ],
)
def test_what_is_not_of_the_type_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    """Path, value and rule on one line."""
    with pytest.raises(CorruptArtifactError) as caught:
        decode(Outer, {**encode(WHOLE), **change})
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, "x", [], [encode(WHOLE)], {}])
def test_what_is_no_object_is_refused(value: Any) -> None:
    """Whatever stands where a message should."""
    with pytest.raises(CorruptArtifactError):
        decode(Outer, value)


@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_nesting_is_refused(depth: int) -> None:
    """A tactic nested without bottom is one more refusal."""
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    with pytest.raises(CorruptArtifactError):
        decode(Inner, {"seconds": 1, "tactic": deep})


def test_a_plain_dataclass_is_no_message() -> None:
    """It would be read leniently, so it is a mistake of ours."""
    with pytest.raises(TypeError, match="Plain is no message"):
        decode(Plain, {"name": "a"})


def test_nothing_heavy_comes_with_it() -> None:
    """The coordinator and engines import it."""
    code = "import sys, ray_warmup.warmup.codec; print([m for m in ('torch', 'ray', 'flashinfer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
