"""The cluster and the per-test view of the cluster tests."""

from __future__ import annotations

from tests.cluster.conftest import bed, case

__all__ = ["bed", "case"]
