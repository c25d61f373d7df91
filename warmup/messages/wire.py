"""Messages as bytes, at the border of a process: one line that says which message of which version, then its fields.

A message is refused by name where it is of another version, of a kind that nobody asked for, or where a field is
missing, unknown or of another type. Nothing is unpickled, so that a process with other sources is told so instead of
working on half a message.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from ray_warmup.configs.errors import clipped, shown
from ray_warmup.warmup.codec import first_fault
from ray_warmup.warmup.errors import MessageError
from ray_warmup.warmup.messages import answers, engine, questions
from ray_warmup.warmup.messages.allotting import (
    AllotTasks,
    EndMeasuring,
    MeasureTasks,
    MeasuringEnded,
    RemoteStart,
    TasksAllotted,
    TasksMeasured,
)
from ray_warmup.warmup.messages.recorded import Asked, Joined, Replied, Serve, Served, Welcome
from ray_warmup.warmup.messages.replays import FreshlyReplayed, FreshReplay
from ray_warmup.warmup.messages.values import Heartbeat, Located
from ray_warmup.warmup.ranks import RankInfo

VERSION = 1
"""Of all messages; raised when one of them changes its meaning but not its fields."""
MAGIC = "ray-warmup"
MAX_LINE = 200

Recorded = Joined | Welcome | Asked | Replied | Serve | Served
Replay = FreshReplay | FreshlyReplayed
AnyAnswer = answers.Answer | engine.EngineAnswer
Message = questions.AnyQuestion | AnyAnswer | Heartbeat | Located | RankInfo | Replay | Recorded | RemoteStart
M = TypeVar("M")

EXPECTED: dict[type[questions.AnyQuestion], tuple[type[AnyAnswer], ...]] = {
    questions.Probe: (answers.Probed,),
    questions.Outline: (answers.Outlined,),
    questions.LookUp: (answers.LookedUp,),
    questions.FindMarkers: (answers.Markers,),
    questions.RecallTable: (answers.RecalledTable, answers.Missing),
    questions.RecallFinished: (answers.RecalledTasks,),
    questions.Survey: (answers.Surveyed,),
    questions.Compile: (answers.Compiled,),
    questions.PackModules: (answers.PackedModules,),
    questions.InstallModules: (answers.InstalledModules,),
    questions.ActivateModules: (answers.Activated,),
    questions.Tune: (answers.Tuned,),
    questions.Compare: (answers.Compared,),
    questions.Vote: (answers.Voted,),
    questions.TuneEngine: (answers.EngineTuned,),
    questions.Guard: (answers.Guarded,),
    questions.Pack: (answers.Packed,),
    questions.PackStored: (answers.Packed,),
    questions.Install: (answers.Installed,),
    questions.Load: (answers.Loaded,),
    questions.Replay: (answers.Replayed,),
    questions.Warm: (answers.Warmed,),
    questions.Confirm: (answers.Confirmed,),
    questions.Conclude: (answers.Concluded,),
    engine.DescribeNode: (engine.NodeDescribed,),
    engine.RecordEngine: (engine.EngineRecorded,),
    engine.CaptureEngine: (engine.EnginePacked,),
    engine.PackEngine: (engine.EnginePacked,),
    engine.InstallEngine: (engine.EngineInstalled,),
    engine.ProveEngine: (engine.EngineProven,),
    engine.ShareEngine: (engine.EngineShared,),
    AllotTasks: (TasksAllotted,),
    MeasureTasks: (TasksMeasured,),
    EndMeasuring: (MeasuringEnded,),
}
"""The answers to each question."""
QUESTIONS: tuple[type[questions.Question], ...] = get_args(questions.Question)
"""Of a rank."""
ENGINE_QUESTIONS: tuple[type[engine.EngineQuestion], ...] = get_args(engine.EngineQuestion)
"""Of an engine's launcher."""

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Made when a message of a kind first passes."""


def to_bytes(message: Message) -> bytes:
    """A message as it travels."""
    kind = type(message)
    return f"{MAGIC} {VERSION} {kind.__name__}\n".encode() + _fields(_adapter(kind), message)


def from_bytes(data: bytes, *kinds: type[M]) -> M:
    """The message of one of these kinds that travelled. Raises MessageError."""
    line, _, fields = data.partition(b"\n")
    words = line[:MAX_LINE].decode(errors="replace").split(" ")
    if len(words) != 3 or words[0] != MAGIC:
        raise MessageError(f"{shown(line[:MAX_LINE])}: is the beginning of no message; {SAME_SOURCES}")
    _, version, name = words
    if version != str(VERSION):
        raise MessageError(
            f"{clipped(name)}: version: {clipped(version)}: this process reads version {VERSION}; {SAME_SOURCES}"
        )
    kind = next((kind for kind in kinds if kind.__name__ == name), None)
    if kind is None:
        names = "a question"
        if len(kinds) < 4:
            names = " or ".join(kind.__name__ for kind in kinds)
        raise MessageError(f"{clipped(name)}: is no message that is expected here, which is {names}; {SAME_SOURCES}")
    try:
        made: M = _adapter(kind).validate_json(fields, strict=True)
    except ValidationError as error:
        raise MessageError(f"{name}: {first_fault(error)}; {SAME_SOURCES}") from error
    return made


SAME_SOURCES = "install the same ray-warmup on every node"


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    found = _ADAPTERS.get(kind)
    if found is None:
        found = _ADAPTERS[kind] = TypeAdapter(kind)
    return found


def _fields(adapter: TypeAdapter[Any], message: Message) -> bytes:
    """Encode the fields as JSON, replacing characters that are no Unicode, as in a path of another encoding."""
    try:
        return adapter.dump_json(message)
    except (PydanticSerializationError, UnicodeEncodeError):
        plain = adapter.dump_python(message, mode="python")
        return json.dumps(plain, ensure_ascii=False, default=bytes.decode).encode(errors="replace")
