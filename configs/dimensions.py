"""A model's dimensions that travel with a configuration, so that only the process that asks opens the model's path."""

from __future__ import annotations

import logging

from ray_warmup.configs.agreement import check_dtype, check_weights
from ray_warmup.configs.model import ModelDims, check_parallel, load_model
from ray_warmup.configs.schema import WarmupConfig

logger = logging.getLogger(__name__)


def dimensions_of(config: WarmupConfig) -> ModelDims:
    """The dimensions that a configuration carries, else those at its model's path. Raises ConfigError."""
    return config.model.dimensions or load_model(config.model.name)


def with_dimensions(config: WarmupConfig) -> WarmupConfig:
    """Add the model's dimensions to a configuration, checked against parallel sizes, quantization and dtype.

    Raises ConfigError.
    """
    model = config.model
    dims = dimensions_of(config)
    for note in dims.notes if model.dimensions is None else ():
        logger.warning("%s", note)
    check_parallel(dims, tp=model.tensor_parallel_size, pp=model.pipeline_parallel_size, ep=model.expert_parallel_size)
    check_weights(dims, model.quantization)
    check_dtype(dims, model.dtype)
    return config.model_copy(update={"model": model.model_copy(update={"dimensions": dims})})
