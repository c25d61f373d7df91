"""GPU tests are skipped, with the reason, where torch sees no GPU; `tests/gpu/run_all.py` runs them all on one."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this directory `gpu`, and skip it where there is none."""
    import torch

    reason = None if torch.cuda.is_available() else f"torch {torch.__version__} sees no NVIDIA GPU"
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        item.add_marker(pytest.mark.filterwarnings("ignore"))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
