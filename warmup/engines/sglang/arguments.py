"""Arguments of a config as SGLang's own command line takes them, and what they resolve to.

Runs in a child process that imports SGLang; SGLang's own parser reads every value.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pydantic import JsonValue

from ray_warmup.warmup.errors import EngineRequestError


def words(arguments: Mapping[str, JsonValue]) -> list[str]:
    """Write arguments as words of a command line.

    A truth value is the option or nothing, since SGLang's options have no negative form. Null leaves the option out.
    """
    line: list[str] = []
    for name, value in arguments.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            line.append(option)
        elif isinstance(value, dict):
            line += [option, json.dumps(value)]
        elif isinstance(value, list):
            line += [option, *(_word(item) for item in value)]
        else:
            line.append(f"{option}={value}")
    return line


def server_args(arguments: Mapping[str, JsonValue], load_format: str) -> Any:
    """Return SGLang's `ServerArgs` for the arguments of a config, not resolved yet.

    Raises EngineRequestError for an argument that SGLang refuses.
    """
    from sglang.srt.server_args import ServerArgs

    parser = _Parser(add_help=False, allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    parsed = _parse(parser, words(arguments))
    parsed.load_format = load_format
    parsed.skip_tokenizer_init = True
    return ServerArgs.from_cli_args(parsed)


class _Parser(argparse.ArgumentParser):
    """A parser that tells a fault instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line would print."""
        raise EngineRequestError(f"engine.args: SGLang refuses them: {message}")


def _parse(parser: argparse.ArgumentParser, line: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(list(line))


def _word(item: JsonValue) -> str:
    if isinstance(item, dict | list):
        return json.dumps(item)
    return str(item)
