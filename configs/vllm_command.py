"""The arguments of a real engine's config, read from the command line that starts vLLM.

vLLM's own parser knows which option takes a value. Where vLLM is not installed the words decide: an option is followed
by its values up to the next option, and without one it is a flag.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from ray_warmup.configs.engine_arguments import base_name, is_secret
from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.configs.vllm_arguments import VLLM_ARGUMENTS

STARTERS = "vllm serve MODEL ..., or python -m vllm.entrypoints.openai.api_server --model MODEL ..."
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?")
_GLUED = re.compile(r"-(O)(\d)")
"""`-O3`, the one short option whose value may follow without a space."""


@dataclass(frozen=True, slots=True)
class VllmCommand:
    """A command line of vLLM in the terms of a config."""

    arguments: dict[str, JsonValue]
    """For `engine.args`."""
    left_out: tuple[str, ...]
    """Arguments that a run does without, each with the reason."""
    variables: tuple[str, ...]
    """Names of environment variables before the command."""


def read_vllm_command(text: str) -> VllmCommand:
    """Read a command line of vLLM. Raises ConfigError naming what is wrong."""
    try:
        line = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise ConfigError(f"--from-vllm: {shown(text)}: {error}; quote it as a shell would read it") from error
    variables = []
    while line and _VARIABLE.fullmatch(line[0]):
        variables.append(line.pop(0).partition("=")[0])
    given = _options(_after_starter(line, text))
    kept: dict[str, JsonValue] = {}
    left_out = []
    for name, value in _spelled(given).items():
        reason = _why_left_out(name)
        if reason is None:
            kept[name] = value
        else:
            left_out.append(f"--{name.replace('_', '-')}: {reason}")
    if not isinstance(kept.get("model"), str):
        raise ConfigError("--from-vllm: names no model; write it right behind `vllm serve`, or as --model NAME")
    return VllmCommand(kept, tuple(left_out), tuple(variables))


def _spelled(given: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        return VLLM_ARGUMENTS.one_spelling(given)
    except ValueError as error:
        raise ConfigError(f"--from-vllm: {error}; give it once") from error


def _why_left_out(name: str) -> str | None:
    base = base_name(name)
    if base == "config":
        raise ConfigError("--from-vllm: --config: the file is not read; write its arguments into the command instead")
    if base in VLLM_ARGUMENTS.ours:
        return VLLM_ARGUMENTS.ours[base]
    if base in VLLM_ARGUMENTS.servers:
        return "belongs to the HTTP server, which is not started"
    if is_secret(base):
        return "is secret, and belongs into the nodes' environment"
    return None


def _after_starter(line: list[str], text: str) -> list[str]:
    for position, word in enumerate(line):
        if word == "serve" and position and line[position - 1].rpartition("/")[2] == "vllm":
            return line[position + 1 :]
        if word.startswith("vllm.entrypoints."):
            return line[position + 1 :]
    raise ConfigError(f"--from-vllm: {shown(text)}: is no command that starts vLLM: {STARTERS}")


def _options(words: Sequence[str]) -> dict[str, JsonValue]:
    """Return options with their values, and the model that stands first without one."""
    found: dict[str, JsonValue] = {}
    position = 0
    while position < len(words):
        word = _GLUED.sub(r"-\1=\2", words[position])
        position += 1
        if not _is_option(word):
            if "model" in found:
                raise ConfigError(f"--from-vllm: {shown(word)}: belongs to no option; quote values with spaces")
            found["model"] = word
            continue
        name, has_value, value = word.partition("=")
        values = [value] if has_value else []
        while not has_value and position < len(words) and not _is_option(words[position]):
            values.append(words[position])
            position += 1
        _add(found, name, values)
    return found


def _add(found: dict[str, JsonValue], name: str, values: list[str]) -> None:
    """Enter one option. Raises ConfigError if it is there already."""
    plain = name.lstrip("-")
    value: JsonValue = True
    if not values and plain.startswith("no-"):
        plain, value = plain.removeprefix("no-"), False
    elif len(values) == 1:
        value = _value(values[0])
    elif values:
        value = list(map(_value, values))
    if plain in found:
        raise ConfigError(f"--from-vllm: {name} is given twice; give it once")
    found[plain] = value


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not _NUMBER.fullmatch(word)


def _value(text: str) -> JsonValue:
    """Return a number, truth value or nested JSON where the text is one."""
    is_json = _NUMBER.fullmatch(text) or text in ("true", "false") or text[:1] in ("{", "[")
    if not is_json:
        return text
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        return text
    return value
