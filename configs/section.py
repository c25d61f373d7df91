"""Base model and number types of all sections: frozen, no unknown keys, no bool as a number, no invalid Unicode.

The sections themselves are in `configs/schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def _no_truth_value(value: object) -> object:
    """YAML's `yes` where a number is asked for would count as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not a truth value (YAML reads true, yes and on as one)")
    return value


def _off_is_a_word(value: object) -> object:
    """YAML reads the bare word `off` as false."""
    if value is False:
        return "off"
    return value


OFF = BeforeValidator(_off_is_a_word)
"""Beside a choice that has `off` among its words."""
Whole = Annotated[int, BeforeValidator(_no_truth_value)]
Number = Annotated[float, BeforeValidator(_no_truth_value)]
Width = Annotated[Whole, Field(ge=1, le=1 << 24)]
Seconds = Annotated[Number, Field(gt=0, le=7 * 24 * 3600)]


class Section(BaseModel):
    """Base of every section: frozen, an unknown key is an error, and so is a number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_unicode(cls, value: object) -> object:
        """Half a surrogate pair, as undecodable bytes of a command line become, cannot travel to a rank as JSON."""
        if not all(_encodes(text) for text in _texts(value)):
            raise ValueError("holds bytes or characters that are no Unicode text")
        return value


def _texts(value: object) -> Iterator[str]:
    """Every text in a field's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | dict):
        for item in value if isinstance(value, tuple) else (*value, *value.values()):
            yield from _texts(item)


def _encodes(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
