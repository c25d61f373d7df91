"""Tests on FlashInfer's real AutoTuner with CPU runners."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ray_warmup.warmup.tasks import Workload
from tests.flashinfer_quietly import AutoTuner
from tests.gemms import make_workload


@pytest.fixture(autouse=True)
def _empty_autotuner() -> Iterator[None]:
    """Every test starts and ends with an empty AutoTuner, unchanged methods and the same number of threads."""
    threads = torch.get_num_threads()
    AutoTuner.get().clear_cache()
    yield
    AutoTuner.get().clear_cache()
    torch.set_num_threads(threads)
    left = {"choose_one", "search_cache", "_profile_single_kernel"} & set(AutoTuner.get().__dict__)
    assert not left, f"{left} were not restored"


@pytest.fixture
def workload() -> Workload:
    """A tiny GEMM with four buckets."""
    return make_workload()
