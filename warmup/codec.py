"""Frozen dataclasses as plain JSON values and back: the one border through which typed values come into a process.

`decode` is strict: a field that is missing, unknown, of another type, not finite or beyond its bound is refused with
its path, its value and the rule. Bounds are said where the field is: `seconds: Annotated[float, Field(ge=0)]`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, JsonValue, TypeAdapter, ValidationError

from ray_warmup.configs.errors import clipped, shown
from ray_warmup.warmup.errors import CorruptArtifactError

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=type)

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Made when a type is first asked for."""
_MAX_TACTIC_DEPTH = 8
_MAX_NUMBER = 1 << 63


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def message(kind: Decorated) -> Decorated:
    """Make a frozen dataclass with slots whose fields `decode` checks strictly.

    Nested ones are messages too.
    """
    kind.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]
    made: Any = dataclass(frozen=True, slots=True)(kind)
    return made  # type: ignore[no-any-return]


def encode(value: Any) -> dict[str, JsonValue]:
    """A message as plain JSON values: tuples become lists, nested messages objects."""
    plain: dict[str, JsonValue] = _adapter(type(value)).dump_python(value, mode="json")
    return plain


def decode(kind: type[T], value: Any) -> T:
    """The message that plain values stand for. Raises CorruptArtifactError: `field.path: value: rule`."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{kind.__name__}: is no JSON: {clipped(str(error))}") from error
    try:
        made: T = _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise CorruptArtifactError(f"{kind.__name__}: {first_fault(error)}") from error
    return made


def schema_of(kind: type[Any]) -> dict[str, JsonValue]:
    """The JSON schema of a message."""
    return _adapter(kind).json_schema()


def freeze(value: Any) -> Any:
    """A hashable copy of a JSON value: lists become tuples."""
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def _tactic(value: Any) -> Any:
    if type(value) is int and -_MAX_NUMBER < value < _MAX_NUMBER:
        return value  # nearly all of them
    _refuse_other_than_tactics(value, 0)
    return freeze(value)


def _refuse_other_than_tactics(value: Any, depth: int) -> None:
    if isinstance(value, list | tuple) and depth < _MAX_TACTIC_DEPTH:
        for item in value:
            _refuse_other_than_tactics(item, depth + 1)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError("must be a number, text or nested lists of them")
    elif isinstance(value, int | float) and not abs(value) < _MAX_NUMBER:
        raise ValueError("must be a finite number of at most 64 bits")


Tactic = Annotated[Any, AfterValidator(_tactic)]
"""As FlashInfer writes it to JSON: an int, or nested lists, which are frozen to tuples."""


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        if not is_dataclass(kind) or getattr(kind, "__pydantic_config__", None) is not _STRICT:
            raise TypeError(f"{kind.__name__} is no message: decorate it with @message")
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, as one line."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(step) for step in found["loc"]) or "the whole"
    value = ""
    if found["type"] != "missing":
        value = f"{shown(found['input'])}: "
    more = error.error_count() - 1
    return f"{where}: {value}{clipped(found['msg'].removeprefix('Value error, '))}" + (
        f" ({more} more)" if more else ""
    )
