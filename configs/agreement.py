"""Compare a checkpoint's quantization and activation dtype with the configuration."""

from __future__ import annotations

from ray_warmup.configs.dims import ModelDims
from ray_warmup.configs.errors import ConfigError, shown


def check_weights(dims: ModelDims, quantization: str) -> None:
    """Raise ConfigError where the checkpoint is quantized otherwise than `model.quantization` says."""
    weights = dims.weights
    if weights is None:
        return
    told = f"model {dims.name}: {weights.says}"
    if not weights.is_fp8_per_tensor:
        raise ConfigError(
            f"{told}; the catalog knows GEMMs of unquantized weights and of fp8 with one scale per tensor, an engine "
            "with this checkpoint runs others; give the config.json of an unquantized one"
        )
    if weights.odd:
        raise ConfigError(f"{told}; {weights.odd}: with it an engine runs kernels that the catalog does not know")
    if dims.is_moe:
        raise ConfigError(f"{told}; its experts are quantized, too, and the catalog knows unquantized experts only")
    if quantization != "fp8":
        raise ConfigError(f"{told}; model.quantization is {quantization!r}: set model.quantization=fp8")


def check_dtype(dims: ModelDims, dtype: str) -> None:
    """Raise ConfigError where the checkpoint's activations are of another dtype than `model.dtype`.

    The cpu backend always runs in float32. A float32 checkpoint is served in the dtype that the engine is given.
    """
    if dims.dtype in (None, "float32", dtype) or dtype == "float32":
        return
    raise ConfigError(
        f"model.dtype: {shown(dtype)}; the config.json of {dims.name} says {dims.dtype}: set model.dtype={dims.dtype}, "
        "or give a config.json with the dtype that the engine is told"
    )
