"""Inputs of a recorded request, made anew at any number of tokens, with values as serving has them.

The random weights of an engine are so small that every tactic's error would pass the check. Here floating values have
unit scale, and a quantised operand fills the range of its type, with the scales of that range. Integers keep the
engine's values, whose meaning only the engine knows, for example routing or packed weights. Imports torch inside
functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KEPT_ROWS = 4096
"""Rows of an integer input that are kept where it follows the number of tokens."""
KEPT_BYTES = 256 << 20
"""Bytes of a larger integer input are not copied but referred to: it is a packed weight, which the engine keeps."""
SIGMAS = 4.5
"""Standard deviations that the range of a quantised operand covers."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """Form of one input, and what cannot be made anew of it."""

    is_tensor: bool
    value: Any = None
    """The value of anything but a tensor; the kept values of an integer tensor."""
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    follows: tuple[int, ...] = ()
    dtype: Any = None
    device: Any = None

    def stride_at(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return strides of the recorded layout: exact ones, or the recorded order of dimensions without gaps."""
        if shape == self.shape:
            return self.stride
        order = sorted(range(len(shape)), key=lambda dim: (-self.stride[dim], dim))
        strides, step = [0] * len(shape), 1
        for dim in reversed(order):
            strides[dim] = step
            step *= shape[dim]
        return tuple(strides)


def shapes_at(tuning_config: Any, templates: tuple[Template, ...], tokens: int) -> tuple[tuple[int, ...], ...]:
    """Return the shape of each input at a number of tokens, by the op's own rules."""
    shapes = [list(one.shape) if one.is_tensor else [0] for one in templates]
    for spec in tuning_config.dynamic_tensor_specs:
        for index, dim in zip(spec.input_idx, spec.dim_idx, strict=True):
            if templates[index].is_tensor:
                shapes[index][dim] = tokens
    for constraint in tuning_config.constraint_specs:
        if templates[constraint.input_idx].follows:
            inferred = constraint.infer_shape(tuple(map(tuple, shapes)))
            shapes[constraint.input_idx][constraint.dim_idx] = inferred
    return tuple(map(tuple, shapes))


def template_of(value: Any, follows: tuple[int, ...]) -> Template:
    """Keep the form of one input."""
    if value is None or not hasattr(value, "stride"):
        return Template(False, value)
    kept = None
    if not _is_made_anew(value.dtype):
        kept = value.detach()
        for dim in follows:
            kept = kept.narrow(dim, 0, min(KEPT_ROWS, kept.shape[dim]))
        if follows or kept.numel() * kept.element_size() <= KEPT_BYTES:
            kept = kept.clone()
    return Template(True, kept, tuple(value.shape), tuple(value.stride()), follows, value.dtype, value.device)


def fresh_inputs(
    templates: tuple[Template, ...],
    shapes: tuple[tuple[int, ...], ...],
    seed: int,
    initializers: Mapping[int, Callable[..., Any]],
    *,
    values: bool = True,
) -> list[Any]:
    """Make the inputs of a request.

    Args:
        templates: one per input.
        shapes: one per input (`shapes_at`).
        seed: equal seeds give equal values.
        initializers: the op's own for some inputs; each takes shape, dtype and device.
        values: False leaves floating values uninitialised.
    """
    import torch

    quantised = any(one.is_tensor and _is_quantised(one.dtype) for one in templates)
    made: list[Any] = []
    for index, (one, shape) in enumerate(zip(templates, shapes, strict=True)):
        if not one.is_tensor:
            made.append(one.value)
            continue
        tensor = torch.empty_strided(shape, one.stride_at(shape), dtype=one.dtype, device=one.device)
        if one.value is not None and index not in initializers:
            _repeat_into(tensor, one.value, one.follows)
        elif values and index in initializers:
            tensor.copy_(initializers[index](shape, one.dtype, one.device))
        elif values:
            _fill(tensor, seed * 1_000_003 + index, is_scale=quantised and _is_scale(one))
        made.append(tensor)
    return made


def _is_made_anew(dtype: Any) -> bool:
    """Floating values are, but for packed pairs and bare exponents, which nothing converts to."""
    return bool(dtype.is_floating_point) and "float4" not in str(dtype) and "e8m0" not in str(dtype)


def _is_quantised(dtype: Any) -> bool:
    return dtype.itemsize == 1 and "bool" not in str(dtype)


def _is_scale(template: Template) -> bool:
    """A float32 operand beside quantised ones scales them."""
    return str(template.dtype) == "torch.float32"


def _fill(tensor: Any, seed: int, *, is_scale: bool) -> None:
    """Fill with unit-scale values, quantised ones over their whole range, scales with what undoes that."""
    import torch

    generator = torch.Generator(tensor.device).manual_seed(seed)
    top = _largest_quantised(tensor.dtype)
    if is_scale:
        spread = torch.rand(tensor.shape, generator=generator, device=tensor.device) * 0.4 + 0.8
        tensor.copy_(spread * (SIGMAS / _largest_quantised(torch.float8_e4m3fn)))
        return
    for part, drawn in _drawn(tensor, generator):
        part.copy_((drawn * (top / SIGMAS)).clamp_(-top, top) if tensor.dtype.itemsize == 1 else drawn)


def _drawn(tensor: Any, generator: Any) -> Any:
    """Yield parts of a tensor with as many standard normal values: a whole large weight in float32 would not fit."""
    import torch

    parts = tensor.split(max(1, (1 << 26) // max(1, tensor[:1].numel()))) if tensor.dim() else (tensor,)
    for part in parts:
        yield part, torch.randn(part.shape, generator=generator, device=tensor.device)


def _largest_quantised(dtype: Any) -> float:
    import torch

    if dtype.is_floating_point and dtype.itemsize == 1:
        return float(torch.finfo(dtype).max)
    return 1.0


def _repeat_into(tensor: Any, kept: Any, follows: tuple[int, ...]) -> None:
    """Copy kept values, again and again along dimensions that have become longer."""
    import torch

    source = kept
    for dim in follows:
        index = torch.arange(tensor.shape[dim], device=kept.device) % max(1, kept.shape[dim])
        source = source.index_select(dim, index)
    tensor.copy_(source)
