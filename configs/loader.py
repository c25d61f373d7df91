"""Load `WarmupConfig` from YAML and `section.field=value` overrides.

Every invalid input raises `ConfigError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from ray_warmup.configs.engine_arguments import HIDDEN, is_secret
from ray_warmup.configs.engine_schema import ARGUMENT_RULES, ENGINES, EngineRunConfig
from ray_warmup.configs.errors import ConfigError, clipped, shown
from ray_warmup.configs.paths import existing, read_text
from ray_warmup.configs.schema import CacheSection, WarmupConfig
from ray_warmup.configs.strict_yaml import parse_yaml

Request = WarmupConfig | EngineRunConfig
"""A config of either engine."""
RECIPES_DIR = Path(__file__).parent / "recipes"
MAX_CONFIG_BYTES = 1 << 16
MAX_COMPLAINTS = 10
RULES = {
    "extra_forbidden": "unknown field",
    "missing": "missing",
    "model_type": "must be a mapping of fields",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
}
"""Rules for people who write YAML, by pydantic's type of error; the others are said as pydantic says them."""


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> WarmupConfig:
    """Read a recipe (a path, or the name of one in `configs/recipes/`) and apply overrides to it.

    Args:
        path: YAML file or recipe name; None starts from nothing, so that overrides must give every required field.
        overrides: `section.field=value`, the value in YAML (`autotune.buckets=[1,8]`).

    Raises:
        ConfigError: naming `section.field`, the value and the rule.
    """
    document = _Document.of(path, overrides)
    kind = document.engine_kind
    if kind in ENGINES and kind != ENGINES[0]:
        raise ConfigError(
            f"engine.kind: {kind}: this command is about the built-in engine alone; a real engine needs no "
            "variables, and its plugin finds everything"
        )
    return parse_config(document.sections)


def load_request(path: str | Path, overrides: Sequence[str] = ()) -> Request:
    """Read a config of either engine: the built-in one's, or the one that `engine.kind` names.

    Raises:
        ConfigError: as `load_config`; also for a kind that is not known, and for a section of the built-in engine
            beside another one.
    """
    return _request_of(_Document.of(path, overrides))


def _request_of(document: _Document) -> Request:
    kind = document.engine_kind
    if kind == ENGINES[0]:
        return parse_config(document.sections)
    if kind not in ENGINES:
        raise ConfigError(f"engine.kind: {shown(kind)}: must be one of {', '.join(ENGINES)}")
    for section in ("model", "autotune", "guard"):
        if section in document.sections:
            raise ConfigError(
                f"{section}: belongs to the built-in engine; with engine.kind {kind} everything of it is in engine.args"
            )
    try:
        return EngineRunConfig.model_validate(document.sections)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def parse_config(data: object) -> WarmupConfig:
    """A config from plain values, for example `WarmupConfig.model_dump(mode="json")` of another process."""
    try:
        return WarmupConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def text_of_config(config: Request) -> str:
    """Return a config as text, for another process, which checks it again with `config_of_text`.

    That of a real engine may hold a token: it travels, and is written nowhere.
    """
    return json.dumps(config.model_dump(mode="json"))


def config_of_text(text: str) -> WarmupConfig:
    """Return the config of a text from `text_of_config`. Raises ConfigError."""
    return parse_config(json.loads(text))


def request_of_text(text: str) -> Request:
    """Return the config of either engine from a text of `text_of_config`. Raises ConfigError."""
    return _request_of(_Document(json.loads(text)))


def request_of(data: Mapping[str, JsonValue]) -> Request:
    """Return the config of either engine from plain values. Raises ConfigError."""
    return _request_of(_Document(dict(data)))


def parse_cache(data: object) -> CacheSection:
    """The cache section from plain values, for example those of command line options. Raises ConfigError."""
    try:
        return CacheSection.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, "cache")) from None


@dataclass(slots=True)
class _Document:
    """The sections of a YAML file with overrides, before they are checked."""

    # A border: what a person wrote, of any type. Pydantic checks it afterwards.
    sections: dict[str, Any]

    @classmethod
    def of(cls, path: str | Path | None, overrides: Sequence[str]) -> _Document:
        """Read a file, or begin with nothing, and apply the overrides."""
        document = cls({}) if path is None else cls._read(_find(path))
        for override in overrides:
            document._apply(override)
        return document

    @property
    def engine_kind(self) -> Any:
        """The engine that the document names, by default the built-in one."""
        engine = self.sections.get("engine")
        if isinstance(engine, Mapping):
            return engine.get("kind", ENGINES[0])
        return ENGINES[0]

    @classmethod
    def _read(cls, path: Path) -> _Document:
        try:
            text = read_text(path, MAX_CONFIG_BYTES)
        except (OSError, ValueError) as error:
            raise ConfigError(f"config: {path} cannot be read: {error}") from error
        try:
            data = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"config: {path} is not YAML: {error}") from error
        if data is None:
            raise ConfigError(f"config: {path} is empty: cluster and model are required")
        if not isinstance(data, dict):
            raise ConfigError(f"config: {path} must hold a mapping of sections, not {shown(data)}")
        return cls(data)

    def _apply(self, override: str) -> None:
        path, separator, text = override.partition("=")
        if is_secret(path.strip()):
            # Messages below show the override, which may hold a token.
            override = f"{path}={HIDDEN}"
        section, dot, name = path.strip().partition(".")
        if not (separator and dot and section and name):
            raise ConfigError(f"--set {shown(override)}: must be section.field=value")
        try:
            value = parse_yaml(text) if text else None
        except ValueError as error:
            why = HIDDEN if is_secret(path.strip()) else str(error)
            raise ConfigError(f"--set {shown(override)}: the value is not YAML: {why}") from None
        target = self.sections.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{clipped(section)}: must be a mapping of fields, not {shown(target)}")
        *parents, leaf = name.split(".")
        if (section, parents[:1]) == ("engine", ["args"]):
            _drop_other_spellings(target, (*parents[1:], leaf)[0])
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{clipped(section)}.{clipped(name)}: {clipped(parent)} is not a mapping")
        target[leaf] = value


# A border: what a person wrote, of any type.
def _drop_other_spellings(engine: dict[str, Any], name: str) -> None:
    """Remove an engine's argument that an override spells with dashes, or the other way round."""
    arguments, rules = engine.get("args"), ARGUMENT_RULES.get(str(engine.get("kind")))
    if isinstance(arguments, dict) and rules is not None:
        wanted = next(iter(rules.one_spelling({name: None})))
        for other in [other for other in arguments if next(iter(rules.one_spelling({other: None}))) == wanted]:
            if other != name:
                arguments[name] = arguments.pop(other)


def _find(path: str | Path) -> Path:
    given = existing(path)
    if given is not None and given.is_file():
        return given
    recipes = {recipe.stem: recipe for recipe in sorted(RECIPES_DIR.glob("*.yaml"))}
    if str(path) not in recipes:
        raise ConfigError(
            f"config: {shown(str(path))} is neither a file nor a recipe; recipes are {', '.join(recipes)}"
        )
    return recipes[str(path)]


def _explain(error: ValidationError, section: str = "") -> str:
    """Format validation errors as `section.field: value: rule` clauses, at most MAX_COMPLAINTS of them."""
    items = error.errors(include_url=False)
    lines = [_complaint(item, section) for item in items[:MAX_COMPLAINTS]]
    if len(items) > len(lines):
        lines.append(f"and {len(items) - len(lines)} more")
    return "; ".join(lines)


def _complaint(item: ErrorDetails, section: str) -> str:
    # A choice between engines is named in the location, and is no field.
    place = [part for number, part in enumerate(item["loc"]) if not (number == 1 and part in ENGINES)]
    path = [section, *place] if section else place
    where = clipped(".".join(map(str, path)))
    rule = item["msg"].removeprefix("Value error, ")
    rule = RULES.get(item["type"], rule)
    value = shown(item["input"])
    if is_secret(where):
        value = HIDDEN
    if item["type"] == "missing" or (item["type"] == "value_error" and isinstance(item["input"], dict)):
        value = ""  # there is none; or the rule is between fields, and names them and their values itself
    return ": ".join(part for part in (where, value, clipped(rule, 400)) if part)
