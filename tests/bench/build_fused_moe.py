"""Build the fused MoE module of compute capability 9.0: `python -m tests.bench.build_fused_moe --jobs 48 --detach`.

It is built from 248 sources and takes many minutes on any machine, so it is no part of COMPILING. With `--detach` the
build goes on after the shell ends, its output in a log file; a workload that needs the module is skipped until then.
It is built where the ranks of a config look for it: `--config` where that names a cache of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from ray_warmup.configs import ConfigError, env, load_config
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.store.node_paths import resolve_paths


def build(jobs: int, cache: CacheSection) -> float:
    """Build in this process, for the nodes of such a cache, with so many compilers at a time; seconds."""
    env.export({"MAX_JOBS": str(jobs), "FLASHINFER_WORKSPACE_BASE": str(resolve_paths(cache).workspace)})
    from flashinfer.jit.fused_moe import gen_cutlass_fused_moe_sm90_module

    began = time.perf_counter()
    gen_cutlass_fused_moe_sm90_module().build(verbose=True)
    return time.perf_counter() - began


def detach(arguments: list[str], log: Path) -> int:
    """Start the build in a session of its own; its process id."""
    command = [sys.executable, "-m", "tests.bench.build_fused_moe", *arguments]
    with log.open("w", encoding="utf-8") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True).pid


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=max(1, cpus * 3 // 4), help="compilers at a time")
    parser.add_argument("--config", "-c", help="YAML file or recipe whose `cache` section says where ranks look")
    parser.add_argument("--set", action="append", default=[], help="section.field=value; may be repeated")
    parser.add_argument("--detach", action="store_true", help="return at once, the build goes on")
    parser.add_argument("--log", type=Path, default=Path("fused_moe_build.log"))
    args = parser.parse_args(arguments)
    try:
        cache = load_config(args.config, args.set).cache if args.config else CacheSection()
    except ConfigError as error:
        parser.error(str(error))
    where = resolve_paths(cache).workspace
    if args.detach:
        config = ["--config", args.config] if args.config else []
        asked = ["--jobs", str(args.jobs), *config, *(part for one in args.set for part in ("--set", one))]
        print(f"building below {where} as process {detach(asked, args.log)}, output in {args.log.resolve()}")
        return 0
    print(f"built below {where} after {build(args.jobs, cache):.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
