"""What every test starts from: none of the variables that would send it to somebody's cluster or cache."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ray_warmup.configs import env

KEPT = {"HOME", "TMPDIR", "FLASHINFER_WORKSPACE_BASE", "TRITON_CACHE_DIR", "CUDA_VISIBLE_DEVICES"}
"""Where the machine keeps things; without them FlashInfer and Triton would build again, or not at all."""


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Our variables as a fresh shell has them; afterwards the whole environment as it was."""
    before = dict(os.environ)
    for variable in env.TABLE:
        if variable.handling != "set" and variable.name not in KEPT:
            os.environ.pop(variable.name, None)
    os.environ.update({variable.name: variable.value for variable in env.TABLE if variable.value is not None})
    yield
    os.environ.clear()
    os.environ.update(before)
