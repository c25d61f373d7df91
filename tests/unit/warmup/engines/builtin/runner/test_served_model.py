"""A model served in chunks and decodes against one full forward in float64, in bf16 and in fp8.

On the CPU, where torch computes what the ops would; `tests/gpu/runner_numerics.py` is the same on a GPU.
"""

from __future__ import annotations

import pytest
import torch

from ray_warmup.configs.model import ModelDims
from tests.gpu.full_forward import forward_errors
from tests.gpu.runner_numerics import FORWARD_BAR, FP8_BAR
from tests.unit.warmup.conftest import DENSE

DIMS = ModelDims.model_validate(DENSE | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16})


@pytest.mark.parametrize(("quantization", "bar"), [("none", FORWARD_BAR), ("fp8", FP8_BAR)])
def test_a_served_model_is_one_full_forward(quantization: str, bar: float) -> None:
    """Every request's logits are within the dtype's bar; logits that are one position late are far beyond it."""
    torch.set_num_threads(1)
    errors, planted = forward_errors(DIMS, torch.device("cpu"), quantization)

    assert len(errors) == 3
    assert max(errors.values()) < bar < planted
