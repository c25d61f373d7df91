"""Build the FlashInfer modules of a rank's workloads before anything is tuned, several at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from configs import env
from warmup.errors import CompileError
from warmup.tasks import Workload
from warmup.tuner import Progress
from warmup.workloads.base import builder_for

logger = logging.getLogger(__name__)

JOBS_PER_MODULE = 4
"""Compiler processes that one module keeps busy; with more CPUs, more modules are built at the same time."""

OUTPUT_LINES = 20
"""How much of the compiler's output an error carries."""


def specs_of(workloads: Iterable[Workload]) -> dict[str, Any]:
    """Module name -> FlashInfer JitSpec, in the order of first use."""
    found: dict[str, Any] = {}
    for workload in workloads:
        for spec in builder_for(workload).jit_specs(workload):
            found.setdefault(spec.name, spec)
    return found


def missing(workloads: Iterable[Workload]) -> list[str]:
    """Modules that have neither a built nor an installed library on this node."""
    return [name for name, spec in specs_of(workloads).items() if not spec.is_compiled]


def build(specs: dict[str, Any], modules: Sequence[str], max_jobs: int, progress: Progress) -> None:
    """Build modules; `progress` hears each module's name when it is done.

    Args:
        specs: every module that may be asked for.
        modules: names to build; an unknown one is an error.
        max_jobs: compiler processes in all.

    Raises:
        CompileError: names the first module that did not build and the end of the compiler's output; the others
            that had begun are finished first.
    """
    unknown = [name for name in modules if name not in specs]
    if unknown:
        raise CompileError(f"no prepared workload needs module {unknown[0]}", module=unknown[0])
    if not modules:
        return
    at_once = max(1, min(len(modules), max_jobs // JOBS_PER_MODULE))
    share = str(max(1, max_jobs // at_once))
    env.export({"MAX_JOBS": share, "OMP_NUM_THREADS": share})  # Ray leaves the latter at the rank's own CPUs
    failed: dict[str, BaseException] = {}
    with ThreadPoolExecutor(at_once, thread_name_prefix="build") as pool:
        started = time.perf_counter()
        running = {pool.submit(specs[name].build, verbose=False, need_lock=True): name for name in modules}
        for done in as_completed(running):
            name, error = running[done], done.exception()
            if error is None:
                progress(f"{name} built after {time.perf_counter() - started:.1f} s")
            else:
                failed[name] = error
                pool.shutdown(wait=False, cancel_futures=True)
                break
    for name, error in failed.items():
        tail = "\n".join(str(error).splitlines()[-OUTPUT_LINES:])
        raise CompileError(f"module {name} did not build: {tail}", module=name) from error
