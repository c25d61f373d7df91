"""Tests on FlashInfer's real AutoTuner with CPU runners. FlashInfer is imported here, once, because its own
dependencies warn while they are imported and it needs a place for its workspace.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", str(Path(tempfile.gettempdir()) / f"ray-warmup-tests-{os.getuid()}"))
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("FLASHINFER_LOGGING_LEVEL", "WARNING")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import flashinfer  # noqa: F401
    from flashinfer.autotuner import AutoTuner

import torch

from tests.gemms import make_workload
from warmup.tasks import Workload


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
