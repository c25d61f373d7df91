"""YAML for people and without surprises: plain mappings, lists and values, nothing that grows, runs or repeats.

Refused are keys given twice (plain YAML keeps the last one silently), anchors and aliases (a kilobyte can stand for
gigabytes) and tags. Dates stay text.
"""

from __future__ import annotations

from typing import Any

import yaml

from ray_warmup.configs.errors import clipped, shown
from ray_warmup.configs.file_mode import WrittenInt

MAX_CHARS = 1 << 16
"""A config with every field has under 4,000."""
MAX_DEPTH = 16
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}


class _Loader(yaml.SafeLoader):
    # Without the rules for dates and merge keys, which give a text a meaning that its writer need not know.
    yaml_implicit_resolvers = {  # noqa: RUF012 (yaml.SafeLoader's own attribute, narrowed)
        first: [(tag, pattern) for tag, pattern in rules if tag in _PLAIN]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= MAX_DEPTH:  # before PyYAML, whose time grows with the square of the depth
            raise yaml.YAMLError(f"brackets are nested deeper than {MAX_DEPTH}")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.YAMLError(f"anchors and aliases are not read (line {event.start_mark.line + 1})")
        if event.tag is not None:
            raise yaml.YAMLError(f"tags such as {shown(event.tag)} are not read (line {event.start_mark.line + 1})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"{shown(key.value)} is given twice (line {key.start_mark.line + 1})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_written_int(self, node: yaml.ScalarNode) -> WrittenInt:
        return WrittenInt.of(self.construct_yaml_int(node), node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_written_int)


def parse_yaml(text: str) -> Any:
    """The value that a text stands for. Raises ValueError with what is wrong, on one line."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"it has {len(text)} characters, at most {MAX_CHARS} are read")
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(clipped(_said(error), 300)) from error


def _said(error: Exception) -> str:
    """Format a YAML error on one line with its position.

    PyYAML spreads the same facts over six lines.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"{getattr(error, 'problem', error)} (line {mark.line + 1}, column {mark.column + 1})"
