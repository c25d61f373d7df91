"""YAML plus `section.field=value` overrides -> `WarmupConfig`; every complaint is a `ConfigError`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.file_mode import WrittenInt
from configs.schema import WarmupConfig

RECIPES_DIR = Path(__file__).parent / "recipes"
MAX_CONFIG_BYTES = 1 << 20


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where plain YAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.YAMLError(f"{key.value!r} is given twice (line {key.start_mark.line + 1})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_written_int(self, node: yaml.ScalarNode) -> WrittenInt:
        return WrittenInt.of(self.construct_yaml_int(node), node.value)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_written_int)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> WarmupConfig:
    """Read a recipe (a path, or the name of one in `configs/recipes/`) and apply overrides to it.

    Args:
        path: YAML file or recipe name; None starts from nothing, so that overrides must give every required field.
        overrides: `section.field=value`, the value in YAML (`autotune.buckets=[1,8]`).

    Raises:
        ConfigError: naming `section.field`, the value and the rule.
    """
    data = _read(_find(path)) if path is not None else {}
    for override in overrides:
        _apply(data, override)
    return parse_config(data)


def parse_config(data: Mapping[str, Any]) -> WarmupConfig:
    """A config from plain values, for example `WarmupConfig.model_dump(mode="json")` of another process."""
    try:
        return WarmupConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _find(path: str | Path) -> Path:
    given = Path(path).expanduser()
    if given.is_file():
        return given
    recipe = RECIPES_DIR / f"{path}.yaml"
    if recipe.is_file():
        return recipe
    names = ", ".join(sorted(p.stem for p in RECIPES_DIR.glob("*.yaml")))
    raise ConfigError(f"config: {str(path)!r} is neither a file nor a recipe; recipes are {names}")


def _read(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ConfigError(f"config: {path} has {size} bytes, at most {MAX_CONFIG_BYTES} are read")
        data = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"config: {path} must hold a mapping of sections, not {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    section, dot, name = path.strip().partition(".")
    if not (separator and dot and section and name):
        raise ConfigError(f"--set {override!r}: must be section.field=value")
    try:
        value = yaml.load(text, _StrictLoader) if text else None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {' '.join(str(error).split())}") from error
    target = data.setdefault(section, {})
    if not isinstance(target, dict):
        raise ConfigError(f"{section}: must be a mapping of fields, not {target!r}")
    *parents, leaf = name.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{section}.{name}: {parent} is not a mapping")
    target[leaf] = value


def _explain(error: ValidationError) -> str:
    """One line per complaint: `section.field: value: rule`."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        rule = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            rule = "unknown field"
        value = "missing" if item["type"] == "missing" else _short(item["input"])
        if item["type"] == "value_error" and isinstance(item["input"], dict):
            value = ""  # a rule between fields names them and their values itself
        lines.append(": ".join(part for part in (where, value, rule) if part))
    return "; ".join(lines)


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, dict) else "{...}"
    return text if len(text) <= 80 else text[:77] + "..."
