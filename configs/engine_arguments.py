"""An engine's arguments in a config: one spelling, and which ones belong to the run, are not covered, or are secret.

The rules of each engine are in `vllm_arguments.py` and `sglang_arguments.py`. What they do not know is left to the
engine's own parser, which names an argument that it refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

SECRET = re.compile(r"(.*_)?(token|api_key|access_key|secret_key|password|secret|credentials?)")
"""Names whose values are in no report, key, log or index; `tokenizer` and `max_num_batched_tokens` are none."""
HIDDEN = "(secret)"
SHORTEST_SECRET = 4
"""Characters below which a text is no secret: replacing it would garble what is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentRules:
    """Rules for the arguments of one engine."""

    short: Mapping[str, str]
    """Other names of arguments, as its command line takes them."""
    ours: Mapping[str, str]
    """Arguments that a run sets itself, each with the reason."""
    servers: tuple[str, ...]
    """Arguments of its HTTP server, which no start of ours has."""
    not_covered: Mapping[str, str]
    """Arguments whose kernels a recording would miss, each with what it asks for.

    What only the model's own configuration says is named by the node that resolves the model.
    """
    sizes: frozenset[str]
    """Those of `not_covered` that count ranks, of which one is no feature."""

    def one_spelling(self, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Return arguments under the engine's own names, whatever dashes or short options they were given with.

        Raises ValueError for an argument that is given twice. What follows a dot (`compilation-config.cudagraph_mode`)
        is left as it is.
        """
        spelled = {}
        for name, value in arguments.items():
            head, dot, rest = str(name).lstrip("-").partition(".")
            plain = head.replace("-", "_")
            plain = self.short.get(plain, plain) + dot + rest
            if plain in spelled:
                raise ValueError(f"{plain} is given twice")
            spelled[plain] = value
        return spelled

    def refusals(self, arguments: Mapping[str, JsonValue]) -> list[str]:
        """List the arguments that a config may not have, each with the reason and the way out."""
        found = []
        for name, value in arguments.items():
            base = base_name(name)
            if base in self.ours:
                found.append(f"args.{name}: {self.ours[base]}; leave it out")
            elif base in self.not_covered and not self._asks_for_nothing(name, value):
                what = self.not_covered[base]
                found.append(f"args.{name}: {what} not covered yet; leave it out, or start the engine without us")
            elif base in self.servers:
                found.append(f"args.{name}: belongs to the HTTP server, which is not started; leave it out")
        return found

    def _asks_for_nothing(self, name: str, value: JsonValue) -> bool:
        """Return True for a value that leaves a feature off."""
        return value is None or value is False or (name in self.sizes and value == 1)


def base_name(argument: str) -> str:
    """Return the argument that a dotted or negated name belongs to."""
    return argument.partition(".")[0]


def is_secret(name: str) -> bool:
    """Return True for the name of a value that must not be shown."""
    return SECRET.fullmatch(name.lower().replace("-", "_").rpartition(".")[2]) is not None


def without_secrets(value: JsonValue) -> Any:
    """Return a value without the members that are secret, at any depth, also inside a JSON text."""
    inside = _inside(value)
    if inside is not None:
        return json.dumps(without_secrets(inside))
    if isinstance(value, dict):
        return {name: without_secrets(inner) for name, inner in value.items() if not is_secret(name)}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return value


def secrets_of(value: JsonValue, *, is_hidden: bool = False) -> frozenset[str]:
    """Return the texts that are secret, at any depth, also inside a JSON text."""
    value = _inside(value) or value
    if isinstance(value, dict):
        inner = [secrets_of(member, is_hidden=is_hidden or is_secret(name)) for name, member in value.items()]
        return frozenset().union(*inner)
    if isinstance(value, list):
        return frozenset().union(*(secrets_of(member, is_hidden=is_hidden) for member in value))
    if not is_hidden or not isinstance(value, str) or len(value) < SHORTEST_SECRET:
        return frozenset()
    return frozenset({value})


def hide(text: str, secrets: frozenset[str]) -> str:
    """Replace every secret in a text."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _inside(value: JsonValue) -> dict[str, JsonValue] | None:
    """Return the mapping that a JSON text holds, as vLLM's command line takes it."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(value)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return found
