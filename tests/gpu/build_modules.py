"""Every FlashInfer module that the GPU tests need, built at once: `python -m tests.gpu.build_modules`.

Without it the tests build them one after the other, on first use.
"""

from __future__ import annotations

import os

from ray_warmup.warmup.device import building
from ray_warmup.warmup.workloads.base import builder_for
from tests.gpu import test_second_pass, test_workloads


def main() -> None:
    """Build what is missing, on all CPUs."""
    asked = [*test_workloads.workloads(), *test_second_pass.workloads()]
    found = [workload for workload in asked if builder_for(workload).unsupported_here(workload, "cuda:0") is None]
    for names in building.build(building.specs_of(found), building.missing(found), os.cpu_count() or 1):
        print(*names, flush=True)


if __name__ == "__main__":
    main()
