"""Tells which arguments of a request enter its class, by resolving it without one after the other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from ray_warmup.configs.engine_arguments import without_secrets
from ray_warmup.warmup.errors import EngineError


def compare_arguments(
    given: Mapping[str, JsonValue], model_argument: str, is_same: Callable[[Mapping[str, JsonValue]], bool]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell which arguments change the identity, and which do not, each as `name=value`.

    Args:
        given: arguments of the request.
        model_argument: the one that names the model, which cannot be left out.
        is_same: whether other arguments resolve to the same identity. May raise EngineError.
    """
    changing: list[str] = []
    others: list[str] = []
    for name, value in given.items():
        text = f"{name}={json.dumps(without_secrets({name: value}).get(name, '(secret)'))}"
        if name == model_argument:
            changing.append(f"{text} (its configuration, not its path)")
            continue
        rest = {other: copy.deepcopy(kept) for other, kept in given.items() if other != name}
        try:
            is_unchanged = is_same(rest)
        except EngineError:
            is_unchanged = False
        (others if is_unchanged else changing).append(text)
    return tuple(changing), tuple(others)
