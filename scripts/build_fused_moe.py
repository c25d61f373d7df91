"""Build the fused MoE module of compute capability 9.0: `python -m scripts.build_fused_moe --jobs 48 --detach`.

It is built from 248 sources and takes many minutes on any machine, so it is no part of COMPILING. With `--detach` the
build goes on after the shell ends, its output in a log file; a workload that needs the module is skipped until then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from configs import env


def build(jobs: int) -> float:
    """Build in this process with so many compilers at a time; seconds."""
    env.export({"MAX_JOBS": str(jobs)})
    from flashinfer.jit.fused_moe import gen_cutlass_fused_moe_sm90_module

    began = time.perf_counter()
    gen_cutlass_fused_moe_sm90_module().build(verbose=True)
    return time.perf_counter() - began


def detach(jobs: int, log: Path) -> int:
    """Start the build in a session of its own; its process id."""
    command = [sys.executable, "-m", "scripts.build_fused_moe", "--jobs", str(jobs)]
    with log.open("w", encoding="utf-8") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True).pid


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=max(1, cpus * 3 // 4), help="compilers at a time")
    parser.add_argument("--detach", action="store_true", help="return at once, the build goes on")
    parser.add_argument("--log", type=Path, default=Path("fused_moe_build.log"))
    args = parser.parse_args(arguments)
    if args.detach:
        print(f"building as process {detach(args.jobs, args.log)}, output in {args.log.resolve()}")
        return 0
    print(f"built after {build(args.jobs):.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
