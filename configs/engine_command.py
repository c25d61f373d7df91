"""The arguments of a real engine's config, read from the command line that starts the engine.

The engine's own parser knows which option takes a value. Where the engine is not installed the words decide: an
option is followed by its values up to the next option, and without one it is a flag.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from ray_warmup.configs.engine_arguments import ArgumentRules, base_name, is_secret
from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.configs.sglang_arguments import SGLANG_ARGUMENTS
from ray_warmup.configs.vllm_arguments import VLLM_ARGUMENTS

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?")
_GLUED = re.compile(r"-(O)(\d)")
"""`-O3`, the one short option whose value may follow without a space."""


@dataclass(frozen=True, slots=True)
class Starter:
    """How one engine is started by its users."""

    kind: str
    """Its `engine.kind`."""
    title: str
    program: str
    """Its command, before `serve`."""
    module: str
    """Beginning of the name of its module, behind `python -m`."""
    model: str
    """Argument that names the model."""
    ranks: str
    """Argument that says how many GPUs one replica has."""
    usage: str
    rules: ArgumentRules

    @property
    def option(self) -> str:
        """The option of `ray-warmup config` that takes such a command."""
        return f"--from-{self.kind}"


VLLM_STARTER = Starter(
    kind="vllm",
    title="vLLM",
    program="vllm",
    module="vllm.entrypoints.",
    model="model",
    ranks="tensor_parallel_size",
    usage="vllm serve MODEL ..., or python -m vllm.entrypoints.openai.api_server --model MODEL ...",
    rules=VLLM_ARGUMENTS,
)
SGLANG_STARTER = Starter(
    kind="sglang",
    title="SGLang",
    program="sglang",
    module="sglang.launch_server",
    model="model_path",
    ranks="tp_size",
    usage="python -m sglang.launch_server --model-path MODEL ..., or sglang serve MODEL ...",
    rules=SGLANG_ARGUMENTS,
)


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """A command line of an engine in the terms of a config."""

    starter: Starter

    arguments: dict[str, JsonValue]
    """For `engine.args`."""
    left_out: tuple[str, ...]
    """Arguments that a run does without, each with the reason."""
    variables: tuple[str, ...]
    """Names of environment variables before the command."""


def read_command(text: str, starter: Starter) -> EngineCommand:
    """Read a command line of an engine. Raises ConfigError naming what is wrong."""
    try:
        line = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise ConfigError(f"{starter.option}: {shown(text)}: {error}; quote it as a shell would read it") from error
    variables = []
    while line and _VARIABLE.fullmatch(line[0]):
        variables.append(line.pop(0).partition("=")[0])
    given = _options(_after_starter(line, text, starter), starter)
    kept: dict[str, JsonValue] = {}
    left_out = []
    for name, value in _spelled(given, starter).items():
        reason = _why_left_out(name, starter)
        if reason is None:
            kept[name] = value
        else:
            left_out.append(f"--{name.replace('_', '-')}: {reason}")
    if not isinstance(kept.get(starter.model), str):
        raise ConfigError(f"{starter.option}: names no model; a command is {starter.usage}")
    return EngineCommand(starter, kept, tuple(left_out), tuple(variables))


def _spelled(given: dict[str, JsonValue], starter: Starter) -> dict[str, JsonValue]:
    try:
        return starter.rules.one_spelling(given)
    except ValueError as error:
        raise ConfigError(f"{starter.option}: {error}; give it once") from error


def _why_left_out(name: str, starter: Starter) -> str | None:
    base = base_name(name)
    if base == "config":
        text = "--config: the file is not read; write its arguments into the command instead"
        raise ConfigError(f"{starter.option}: {text}")
    if base in starter.rules.ours:
        return starter.rules.ours[base]
    if base in starter.rules.servers:
        return "belongs to the HTTP server, which is not started"
    if is_secret(base):
        return "is secret, and belongs into the nodes' environment"
    return None


def _after_starter(line: list[str], text: str, starter: Starter) -> list[str]:
    for position, word in enumerate(line):
        if word == "serve" and position and line[position - 1].rpartition("/")[2] == starter.program:
            return line[position + 1 :]
        if word.startswith(starter.module):
            return line[position + 1 :]
    raise ConfigError(f"{starter.option}: {shown(text)}: is no command that starts {starter.title}: {starter.usage}")


def _options(words: Sequence[str], starter: Starter) -> dict[str, JsonValue]:
    """Return options with their values, and the model that stands first without one."""
    found: dict[str, JsonValue] = {}
    position = 0
    while position < len(words):
        word = _GLUED.sub(r"-\1=\2", words[position])
        position += 1
        if not _is_option(word):
            if starter.model in found:
                raise ConfigError(f"{starter.option}: {shown(word)}: belongs to no option; quote values with spaces")
            found[starter.model] = word
            continue
        name, has_value, value = word.partition("=")
        values = [value] if has_value else []
        while not has_value and position < len(words) and not _is_option(words[position]):
            values.append(words[position])
            position += 1
        _add(found, name, values, starter)
    return found


def _add(found: dict[str, JsonValue], name: str, values: list[str], starter: Starter) -> None:
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
        raise ConfigError(f"{starter.option}: {name} is given twice; give it once")
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
