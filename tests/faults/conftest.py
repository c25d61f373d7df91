"""The cluster and the per-test view of the cluster tests."""

from __future__ import annotations

from tests.cluster.conftest import bed, case
from tests.xdist_lanes import pytest_xdist_make_scheduler

__all__ = ["bed", "case", "pytest_xdist_make_scheduler"]
