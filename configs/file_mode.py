"""File modes as people write them: octal, with a leading zero or in quotes.

YAML 1.1 reads `0600` as octal and `600` as decimal, so the text decides and not the number that YAML makes of it.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

_IN_QUOTES = re.compile(r"(?:0o?)?([0-7]{3,4})", re.ASCII)
_AS_NUMBER = re.compile(r"0o?([0-7]{3,4})", re.ASCII)
_OTHERS_WRITE = 0o002


class WrittenInt(int):
    """An integer that remembers its spelling in YAML.

    Everywhere else it is a plain int.
    """

    text: str

    @classmethod
    def of(cls, value: int, text: str) -> WrittenInt:
        written = cls(value)
        written.text = text
        return written

    def __repr__(self) -> str:
        return self.text


def _read(value: object) -> int:
    """Parse a file mode.

    Strings and YAML integers are read by their text. A plain int (Python's 0o600) is the mode itself.
    """
    if isinstance(value, WrittenInt):
        if match := _AS_NUMBER.fullmatch(value.text):
            return int(match[1], 8)
        raise ValueError("may mean octal or decimal; write it as octal with a leading zero, such as 0600")
    if isinstance(value, str):
        if match := _IN_QUOTES.fullmatch(value):
            return int(match[1], 8)
        raise ValueError("must be an octal file mode such as 0600")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an octal file mode such as 0600")
    return value


def _allow(mode: int, owner: int) -> int:
    if not 0 <= mode <= 0o777 or mode & owner != owner or mode & _OTHERS_WRITE:
        raise ValueError(
            f"is octal {mode:04o}; must lie between {owner:04o} and 0775, with {owner:04o} for the owner and without "
            "0002: who can write the cache can run code"
        )
    return mode


def _for_files(mode: int) -> int:
    return _allow(mode, 0o400)


def _for_directories(mode: int) -> int:
    return _allow(mode, 0o700)


def _text(mode: int) -> str:
    return f"{mode:04o}"


_as_text = PlainSerializer(_text, return_type=str, when_used="json")

FileMode = Annotated[int, BeforeValidator(_read), AfterValidator(_for_files), _as_text]
"""Mode of a file: its owner can read it. In JSON a string, so that it means the same in YAML."""
DirMode = Annotated[int, BeforeValidator(_read), AfterValidator(_for_directories), _as_text]
"""Mode of a directory: its owner can list, enter and change it."""
