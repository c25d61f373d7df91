"""How tests on real Ray are spread over the lanes of pytest-xdist, each of which has a cluster of its own.

Each test goes to whichever lane is free next, but for the files whose tests share a costly fixture; those come first.
"""

from __future__ import annotations

from typing import Any

import pytest

TOGETHER = (
    "tests/cluster/test_command_line.py",
    "tests/cluster/test_engine_registry.py",
    "tests/cluster/test_engine_run.py",
    "tests/cluster/test_job_submit.py",
    "tests/cluster/test_ray_client.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In place of xdist's own (whose groups by marker do nothing under pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return path if path in TOGETHER else nodeid

    return Lanes(config, log)
