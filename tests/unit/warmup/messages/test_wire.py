"""Messages at the border of a process: what arrives is what was sent, and anything else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from ray_warmup.warmup.errors import MessageError
from ray_warmup.warmup.messages import answers, engine, questions
from ray_warmup.warmup.messages.values import Ancestor, BlobRow, CrashRecord, Header, Heartbeat, RunVerdict, TextFile
from ray_warmup.warmup.messages.wire import ENGINE_QUESTIONS, EXPECTED, QUESTIONS, from_bytes, to_bytes
from ray_warmup.warmup.report import EngineReport, EngineWarmupEntry, FileReport
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TacticId, TaskResult

BANNED = TacticId("gemm", "Fast", "[1, 2]")
ROW = Measurement("Fast", ((128, 64), 2), 1.25e-5, 1e-7, 7)
RESULT = TaskResult("gemm@8", "gemm", 8, "tuned", Choice("Fast", ((128, 64), 2)), "First", {"Fast": "k"}, None, (ROW,))
VERDICT = GuardVerdict("gemm@8", "kept", Choice("Fast", 3), 1.5, 1.5, 1e-5, 15)
HEADER = Header("ab" * 32, "cd" * 32, '{"caf\u00e9": "\\n"}\n'.encode(), (BlobRow("ef" * 32, 7, "timings"),))
SENT: tuple[Any, ...] = (
    questions.Tune("gemm@8", (BANNED,), packs=True),
    questions.Guard("gemm@8", RESULT, (BANNED,)),
    questions.Pack((RESULT,), (VERDICT,), "sharded", True, (TextFile("a.json", "{}"),), Ancestor("ab", 3)),
    questions.Load(HEADER.digest, HEADER),
    questions.Warm({"serving_shapes": "no end"}),
    questions.Conclude(RunVerdict("run-1", False, "failed", "it broke", 9.5, {"TUNING": 1.0}, ()), (0, 1)),
    answers.Probed("k", {"gpu": "H200"}, "/cache", last_words=CrashRecord("tune", "gemm@8", "gemm", "Fast", "3")),
    answers.Tuned(RESULT),
    answers.Guarded(VERDICT),
    answers.RecalledTable(HEADER, (RESULT,), (VERDICT,)),
    answers.Installed((FileReport(node_id="n", path="/t", sha256="ab", bytes=3),), counts={"triton_cache": 2}),
    answers.Warmed(EngineReport(outcomes=(EngineWarmupEntry(name="verify", state="done", severity="optional"),))),
    Heartbeat("tune", "gemm@8", 1.5, "gemm", "Fast", "3"),
)
FIVE = (SENT[0], SENT[2], SENT[3], SENT[7], SENT[12])


def mutated(message: Any, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The bytes of a message, after its fields were changed."""
    line, fields = to_bytes(message).split(b"\n", 1)
    plain = json.loads(fields)
    change(plain)
    return line + b"\n" + json.dumps(plain).encode()


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_what_arrives_is_what_was_sent(message: Any) -> None:
    """Nested tactics, bytes, options and values of the report are the same values on the other side."""
    assert from_bytes(to_bytes(message), type(message)) == message


@pytest.mark.parametrize("message", FIVE, ids=lambda message: type(message).__name__)
def test_a_dropped_field_is_named(message: Any) -> None:
    """A process that does not send a field has other sources."""
    (name, *_) = _required(message)
    with pytest.raises(MessageError, match=rf"{type(message).__name__}: {name}: Field required"):
        from_bytes(mutated(message, lambda plain: plain.pop(name)), type(message))


@pytest.mark.parametrize("message", FIVE, ids=lambda message: type(message).__name__)
def test_a_renamed_field_is_named(message: Any) -> None:
    """The name that is expected, or the one that is not, is in the error."""
    (name, *_) = _required(message)
    with pytest.raises(MessageError, match=rf"{type(message).__name__}: {name}: Field required \(1 more\)"):
        from_bytes(mutated(message, lambda plain: plain.update(other=plain.pop(name))), type(message))


@pytest.mark.parametrize("message", FIVE, ids=lambda message: type(message).__name__)
def test_a_field_of_another_type_is_named(message: Any) -> None:
    """Nothing is converted: a number is no text, a text no list."""
    (name, *_) = _required(message)
    with pytest.raises(MessageError, match=rf"{type(message).__name__}: {name}.*: 7: Input should be"):
        from_bytes(mutated(message, lambda plain: plain.update({name: 7})), type(message))


@pytest.mark.parametrize("message", FIVE, ids=lambda message: type(message).__name__)
def test_an_unknown_field_is_named(message: Any) -> None:
    """A field that this process would ignore is refused."""
    with pytest.raises(MessageError, match=rf"{type(message).__name__}: colour: .*install the same ray-warmup"):
        from_bytes(mutated(message, lambda plain: plain.update(colour="red")), type(message))


@pytest.mark.parametrize("message", FIVE, ids=lambda message: type(message).__name__)
def test_another_version_is_named(message: Any) -> None:
    """The version is read before the fields, whatever they hold."""
    old = re.sub(rb"^ray-warmup \d+ ", b"ray-warmup 0 ", to_bytes(message))
    with pytest.raises(MessageError, match=rf"{type(message).__name__}: version: 0: this process reads version 1"):
        from_bytes(old, type(message))


@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04pickled", b"ray-warmup 1\n{}", to_bytes(SENT[7])])
def test_what_nobody_asked_for_is_refused(data: bytes) -> None:
    """Bytes that begin no message, and an answer where a question is expected."""
    with pytest.raises(MessageError, match=r"is the beginning of no message|Tuned: is no message that is expected"):
        from_bytes(data, *QUESTIONS)


def test_a_nested_value_that_is_none_is_named_by_its_path() -> None:
    """The border looks at everything that a message holds."""
    with pytest.raises(MessageError, match=r"Tuned: result\.measurements\.0\.median_s: -1: "):
        from_bytes(
            mutated(answers.Tuned(RESULT), lambda plain: plain["result"]["measurements"][0].update(median_s=-1)),
            answers.Tuned,
        )


def test_a_path_of_another_encoding_arrives_readable() -> None:
    """A warning with half surrogates, which are bytes of somebody's path, does not fail the rank that says so."""
    said = from_bytes(
        to_bytes(answers.PackedModules(HEADER, warnings=("cannot read caf\udce9",))), answers.PackedModules
    )
    assert (said.header, said.warnings) == (HEADER, ("cannot read caf?",))


def test_every_question_has_its_answers_and_all_are_messages() -> None:
    """Nothing can be asked that has no answer; every class is frozen and refuses unknown fields."""
    assert set(QUESTIONS) == set(get_args(questions.Question))
    assert set(ENGINE_QUESTIONS) == set(get_args(engine.EngineQuestion))
    assert set(EXPECTED) == {*QUESTIONS, *ENGINE_QUESTIONS}
    expected = {*get_args(answers.Answer), *get_args(engine.EngineAnswer)}
    assert {kind for kinds in EXPECTED.values() for kind in kinds} == expected
    for kind in (*EXPECTED, *expected, Heartbeat):
        assert kind.__dataclass_params__.frozen, kind
        assert kind.__pydantic_config__["extra"] == "forbid", kind


def _required(message: Any) -> list[str]:
    """Fields without a default, in order."""
    return [
        field.name
        for field in dataclasses.fields(message)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
