"""Find the layers that differ from the others: those with a sliding window, and dense layers between expert layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_warmup.configs.errors import ConfigError, shown

FULL, SLIDING = "full_attention", "sliding_attention"
SWITCHED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
"""Architectures whose window counts only with `use_sliding_window`."""
UPPER_LAYERS = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Architectures in which the layers below `max_window_layers` see all tokens."""
DEFAULT_MAX_WINDOW_LAYERS = 28
DEFAULT_WINDOW = {"MistralForCausalLM": 4096}
"""Default of transformers for an absent field. null is a value: no window."""
MAX_LAYERS = 1 << 16


def window_fields(name: str, class_name: str, data: Mapping[str, Any], num_layers: Any) -> dict[str, Any]:
    """Return `sliding_window` and `sliding_layers` for `ModelDims`, or nothing if every layer sees all tokens."""
    window = data.get("sliding_window", DEFAULT_WINDOW.get(class_name))
    switch = data.get("use_sliding_window")
    if switch not in (None, True, False):
        raise ConfigError(f"model {name}: use_sliding_window is {shown(switch)}; must be true or false")
    listed = _listed(name, data, num_layers)
    if switch is False or (class_name in SWITCHED and not switch):
        window = None
    if window is None:
        if listed and SLIDING in listed:
            raise ConfigError(f"model {name}: layer_types has {SLIDING!r}, but sliding_window is not set")
        return {}
    if not isinstance(num_layers, int) or num_layers > MAX_LAYERS:
        return {"sliding_window": window}  # the number of layers is refused under its own name
    sliding = tuple(layer for layer in range(num_layers) if _slides(class_name, data, listed, layer))
    if not sliding and listed and class_name not in SWITCHED:
        return {}
    # Engines read a window that is switched on for no layer as one of every layer.
    is_whole = len(sliding) in (0, num_layers)
    return {"sliding_window": window, "sliding_layers": None if is_whole else sliding}


def dense_fields(name: str, data: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """`first_dense_layers` and `dense_layers` of a model with experts, from each architecture's way to say it."""
    first, num_layers = fields.get("first_dense_layers", 0), fields.get("num_hidden_layers")
    step, only = data.get("decoder_sparse_step"), data.get("mlp_only_layers")
    frequency = data.get("moe_layer_freq")
    if not isinstance(num_layers, int) or not isinstance(first, int) or not 0 < num_layers <= MAX_LAYERS:
        return {}
    _check_step(name, "decoder_sparse_step", step)
    by_layer = frequency if isinstance(frequency, list) else None
    if by_layer is None:
        _check_step(name, "moe_layer_freq", frequency)
    elif len(by_layer) != num_layers or not all(type(flag) is int and flag in (0, 1) for flag in by_layer):
        raise ConfigError(f"model {name}: moe_layer_freq is {shown(by_layer)}; must be a 0 or 1 for each layer")
    if only is not None and not (isinstance(only, list) and all(type(layer) is int for layer in only)):
        raise ConfigError(f"model {name}: mlp_only_layers is {shown(only)}; must be a list of layers")
    # Four spellings of one fact: leading layers, a list of layers, every n-th layer, a flag or a period for each.
    dense = []
    for layer in range(num_layers):
        is_dense = layer < first or layer in (only or ()) or (layer + 1) % (step or 1) != 0
        if by_layer is not None:
            is_dense = is_dense or not by_layer[layer]
        else:
            is_dense = is_dense or layer % (frequency or 1) != 0
        if is_dense:
            dense.append(layer)
    leading = next((layer for layer in range(num_layers) if layer not in set(dense)), num_layers)
    if leading == num_layers and first < num_layers:
        raise ConfigError(f"model {name}: every layer is dense, though there are experts; num_experts must be 0 then")
    others = tuple(layer for layer in dense if layer > leading)
    return {"first_dense_layers": max(first, leading), "dense_layers": others or None}


def _listed(name: str, data: Mapping[str, Any], num_layers: Any) -> list[Any] | None:
    """Return the checked `layer_types`, or None if the field is absent."""
    listed = data.get("layer_types")
    if listed is None:
        return None
    if not isinstance(listed, list) or (isinstance(num_layers, int) and len(listed) != num_layers):
        raise ConfigError(f"model {name}: layer_types is {shown(listed)}; must name each of {shown(num_layers)} layers")
    for kind in listed:
        if kind not in (FULL, SLIDING):
            raise ConfigError(f"model {name}: layer_types has {shown(kind)}; known are {FULL} and {SLIDING}")
    return listed


def _slides(class_name: str, data: Mapping[str, Any], listed: list[Any] | None, layer: int) -> bool:
    if listed is not None:
        return bool(listed[layer] == SLIDING)
    if class_name not in UPPER_LAYERS:
        return True
    first = data.get("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS)
    return layer >= first if isinstance(first, int) else True


def _check_step(name: str, field: str, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"model {name}: {field} is {shown(value)}; must be a number of layers")
