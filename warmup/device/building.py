"""Build the FlashInfer modules of a rank's workloads before anything is tuned, several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from ray_warmup.configs import env
from ray_warmup.warmup.caches.flashinfer_modules import is_whole_file
from ray_warmup.warmup.errors import CompileError
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.base import builder_for

if TYPE_CHECKING:
    from flashinfer.jit.core import JitSpec

JOBS_PER_MODULE = 4
"""Compiler processes that one module keeps busy; with more CPUs, more modules are built at the same time."""

OUTPUT_LINES = 20
"""Lines of the compiler's output in an error."""


def specs_of(workloads: Iterable[Workload]) -> dict[str, JitSpec]:
    """Module name -> FlashInfer JitSpec, in the order of first use."""
    found: dict[str, JitSpec] = {}
    for workload in workloads:
        for spec in builder_for(workload).jit_specs(workload):
            found.setdefault(spec.name, spec)
    return found


def missing(workloads: Iterable[Workload]) -> list[str]:
    """Modules that have neither a built nor an installed library on this node, or a part of one from a killed build."""
    return [name for name, spec in specs_of(workloads).items() if not _is_there(spec)]


def _is_there(spec: JitSpec) -> bool:
    return spec.is_compiled and (spec.is_aot or is_whole_file(spec.jit_library_path))


def build(specs: Mapping[str, JitSpec], modules: Sequence[str], max_jobs: int) -> Iterator[tuple[str, ...]]:
    """Build modules, yielding the names of each finished step while the others continue.

    Args:
        specs: every module that may be asked for.
        modules: names to build; an unknown one is an error.
        max_jobs: compiler processes in all.

    Raises:
        CompileError: names the first module that did not build and the end of the compiler's output; the others
            that had begun are finished first.
    """
    for name in modules:
        if name not in specs:
            raise CompileError(f"no prepared workload needs module {name}", module=name)
    if not modules:
        return
    at_once = max(1, min(len(modules), max_jobs // JOBS_PER_MODULE))
    share = str(max(1, max_jobs // at_once))
    env.export({"MAX_JOBS": share, "OMP_NUM_THREADS": share})  # Ray leaves the latter at the rank's own CPUs
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="build")
    running = {pool.submit(specs[name].build, verbose=False, need_lock=True): name for name in modules}
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            names = []
            for future in done:
                name = running.pop(future)
                if future.exception() is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise _failure(name, future.exception())
                names.append(name)
            yield tuple(sorted(names))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever stops asking does not wait for what has begun


def _failure(name: str, error: BaseException | None) -> CompileError:
    tail = "\n".join(str(error).splitlines()[-OUTPUT_LINES:])
    failure = CompileError(f"module {name} did not build: {tail}", module=name)
    failure.__cause__ = error
    return failure
