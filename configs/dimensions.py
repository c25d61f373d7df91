"""A model's dimensions that travel with a configuration, so that only the process that asks opens the model's path."""

from __future__ import annotations

from ray_warmup.configs.model import ModelDims, check_parallel, load_model
from ray_warmup.configs.schema import WarmupConfig


def dimensions_of(config: WarmupConfig) -> ModelDims:
    """The dimensions that a configuration carries, else those at its model's path. Raises ConfigError."""
    return config.model.dimensions or load_model(config.model.name)


def with_dimensions(config: WarmupConfig) -> WarmupConfig:
    """The same configuration with its model's dimensions, which fit its parallel sizes. Raises ConfigError."""
    model = config.model
    dims = dimensions_of(config)
    check_parallel(dims, tp=model.tensor_parallel_size, pp=model.pipeline_parallel_size, ep=model.expert_parallel_size)
    return config.model_copy(update={"model": model.model_copy(update={"dimensions": dims})})
