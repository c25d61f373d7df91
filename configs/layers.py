"""Find the layers that differ from the others: those with a sliding window, and dense layers between expert layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_warmup.configs.checkpoint_fields import CheckpointFields
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


@dataclass(frozen=True, slots=True)
class WindowLayers:
    """The layers with a sliding window."""

    window: Any = None
    """Tokens that attention looks back, not checked yet. None where every layer sees all."""
    layers: tuple[int, ...] | None = None
    """Numbers of the layers, or None for all of them."""


@dataclass(frozen=True, slots=True)
class DenseLayers:
    """The dense layers of a model with experts."""

    first: int
    """Number of leading dense layers."""
    others: tuple[int, ...] | None
    """Numbers of the dense layers after them."""


def window_layers(class_name: str, fields: CheckpointFields, num_layers: Any) -> WindowLayers:
    """Find the layers with a sliding window."""
    window = fields.get("sliding_window", DEFAULT_WINDOW.get(class_name))
    switch = fields.flag("use_sliding_window")
    listed = _listed(fields, num_layers)
    if switch is False or (class_name in SWITCHED and not switch):
        window = None
    if window is None:
        if listed and SLIDING in listed:
            raise ConfigError(f"model {fields.model}: layer_types has {SLIDING!r}, but sliding_window is not set")
        return WindowLayers()
    if not isinstance(num_layers, int) or num_layers > MAX_LAYERS:
        return WindowLayers(window)  # the number of layers is refused under its own name
    sliding = tuple(layer for layer in range(num_layers) if _slides(class_name, fields, listed, layer))
    if not sliding and listed and class_name not in SWITCHED:
        return WindowLayers()
    # Engines read a window that is switched on for no layer as one of every layer.
    is_whole = len(sliding) in (0, num_layers)
    return WindowLayers(window, None if is_whole else sliding)


def dense_layers(fields: CheckpointFields, dims: CheckpointFields) -> DenseLayers | None:
    """Find the dense layers of a model with experts, from each architecture's way to say it.

    Returns None if the number of layers is missing or wrong, which is refused under its own name.

    Args:
        fields: as the checkpoint has them.
        dims: the same, by the names of `ModelDims`.
    """
    first, num_layers = dims.get("first_dense_layers", 0), dims.get("num_hidden_layers")
    if not isinstance(num_layers, int) or not isinstance(first, int) or not 0 < num_layers <= MAX_LAYERS:
        return None
    has_experts = _expert_layers(fields, num_layers)
    dense = [layer for layer in range(num_layers) if layer < first or not has_experts[layer]]
    leading = 0
    while leading < len(dense) and dense[leading] == leading:
        leading += 1
    if leading == num_layers and first < num_layers:
        raise ConfigError(
            f"model {fields.model}: every layer is dense, though there are experts; num_experts must be 0 then"
        )
    others = tuple(layer for layer in dense if layer > leading)
    return DenseLayers(max(first, leading), others or None)


def _expert_layers(fields: CheckpointFields, num_layers: int) -> list[bool]:
    """Return for each layer whether it has experts, by a list of layers, every n-th layer, a flag or a period."""
    step, only = fields.get("decoder_sparse_step"), fields.get("mlp_only_layers")
    frequency = fields.get("moe_layer_freq")
    _check_step(fields, "decoder_sparse_step")
    if not isinstance(frequency, list):
        _check_step(fields, "moe_layer_freq")
        by_layer = [layer % (frequency or 1) == 0 for layer in range(num_layers)]
    elif len(frequency) != num_layers or not all(type(flag) is int and flag in (0, 1) for flag in frequency):
        raise fields.refusal("moe_layer_freq", "must be a 0 or 1 for each layer")
    else:
        by_layer = [flag == 1 for flag in frequency]
    if only is not None and not _is_list_of_layers(only):
        raise fields.refusal("mlp_only_layers", "must be a list of layers")
    for layer in range(num_layers):
        if layer in (only or ()) or (layer + 1) % (step or 1) != 0:
            by_layer[layer] = False
    return by_layer


def _is_list_of_layers(value: Any) -> bool:
    return isinstance(value, list) and all(type(layer) is int for layer in value)


def _listed(fields: CheckpointFields, num_layers: Any) -> list[Any] | None:
    """Return the checked `layer_types`, or None if the field is absent."""
    listed = fields.get("layer_types")
    if listed is None:
        return None
    if not isinstance(listed, list) or (isinstance(num_layers, int) and len(listed) != num_layers):
        raise fields.refusal("layer_types", f"must name each of {shown(num_layers)} layers")
    for kind in listed:
        if kind not in (FULL, SLIDING):
            raise ConfigError(f"model {fields.model}: layer_types has {shown(kind)}; known are {FULL} and {SLIDING}")
    return listed


def _slides(class_name: str, fields: CheckpointFields, listed: list[Any] | None, layer: int) -> bool:
    if listed is not None:
        return bool(listed[layer] == SLIDING)
    if class_name not in UPPER_LAYERS:
        return True
    first = fields.get("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS)
    return not isinstance(first, int) or layer >= first


def _check_step(fields: CheckpointFields, field: str) -> None:
    value = fields.get(field)
    if value is not None and (type(value) is not int or value < 1):
        raise fields.refusal(field, "must be a number of layers")
