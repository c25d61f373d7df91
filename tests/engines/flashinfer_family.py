"""Tune, publish, load and hit on the CPU with an older FlashInfer, in an environment of its own.

    python -m tests.engines.flashinfer_family              # the newest of each family of FAMILIES_RUN; minutes each
                                                           # (./scripts/test -m family tests/engines does the same)
    python -m tests.engines.flashinfer_family 0.6.18.post1

Makes `.engines/flashinfer-<version>` with pip on first use: this project's wheel, that FlashInfer with all that it
requires, torch and Triton. Runs the main job of the README twice, on two simulated nodes with two ranks each, then the
unit tests of the AutoTuner's seams. Writes `tests/engines/results/flashinfer_<version>.json`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_warmup.warmup.families.known import FAMILIES, V0_6_18, V0_7_0
from tests.artifacts import ROOT
from tests.engines.fetch import directory
from tests.engines.resolve import build_wheel

FAMILIES_RUN = (V0_6_18, V0_7_0)
"""The default run is of the newest family, with which every other test runs."""
TORCH = "torch==2.13.0"
RECORDED = ("flashinfer-python", "torch", "triton", "nvidia-cutlass-dsl", "apache-tvm-ffi", "ray")
UNIT_TESTS = [f"tests/unit/warmup/device/test_{name}.py" for name in ("seams", "loading", "task_tuning", "cpu_tuner")]
UNIT_TESTS += ["tests/unit/warmup/caches/test_flashinfer_modules.py"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one FlashInfer."""

    version: str

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return directory() / f"flashinfer-{self.version}" / "bin" / "python"

    def make(self) -> None:
        """Install everything on first use, and this project's wheel every time."""
        venv = self.python.parents[1]
        if not (venv / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            self._pip(TORCH, "triton>=3.6,<3.10", f"flashinfer-python=={self.version}")
            self._pip("pytest", "pytest-timeout", "hypothesis", "jsonschema")
            (venv / "ready").touch()
        with tempfile.TemporaryDirectory() as scratch:
            wheel = build_wheel(Path(scratch))
            self._pip("--force-reinstall", "--no-deps", str(wheel))
            self._pip(str(wheel))

    def versions(self) -> dict[str, str]:
        """Return what is installed of the libraries that are recorded."""
        done = subprocess.run(
            [str(self.python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
        )
        found = {row["name"].lower(): row["version"] for row in json.loads(done.stdout)}
        return {name: found.get(name, "not installed") for name in RECORDED}

    def _pip(self, *words: str) -> None:
        subprocess.run([str(self.python), "-m", "pip", "install", "--quiet", *words], check=True)


def run_job(environment: Environment, scratch: Path, name: str) -> dict[str, Any]:
    """Run the main job once and return what its report says of every rank."""
    report = scratch / f"{name}.json"
    command = [
        str(environment.python.parent / "ray-warmup"),
        "run",
        "--config",
        "cpu_two_nodes",
        "--report",
        str(report),
    ]
    environ = {
        "PATH": f"{environment.python.parent}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "RAY_WARMUP_CACHE_ROOT": str(scratch / "root"),
    }
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=scratch, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if not report.is_file():
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-4000:]}")
    found = json.loads(report.read_text())
    return {
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "ready": found["error"] is None and done.returncode == 0,
        "found_in_the_cache": "the tuned table was found in the cache" in done.stdout,
        "ranks": [{name: rank.get(name) for name in ("rank", "entries", "hits", "digest")} for rank in found["ranks"]],
        "last_lines": done.stdout.splitlines()[-6:],
    }


def run_unit_tests(environment: Environment) -> str:
    """Run the unit tests of the seams on this checkout with the environment's libraries: the last line of pytest."""
    command = [str(environment.python), "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *UNIT_TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1])


def table_of(scratch: Path) -> dict[str, Any]:
    """Describe the table on the first node's disk."""
    paths = sorted((scratch / "root").rglob("autotune_configs.json"))
    table = json.loads(paths[0].read_text())
    entries = [row for key, row in table.items() if not key.startswith("_")]
    return {
        "metadata": sorted(table["_metadata"]),
        "entries": len(entries),
        "columns": sorted({len(row) for row in entries}),
    }


def record(version: str) -> dict[str, Any]:
    """Do everything for one release and replace its result."""
    made = measure(version)
    result_of(version).write_text(json.dumps(made, indent=1) + "\n")
    return made


def measure(version: str) -> dict[str, Any]:
    """Do everything for one release."""
    environment = Environment(version)
    environment.make()
    with tempfile.TemporaryDirectory(prefix="ray-warmup-family-") as path:
        first, second = (run_job(environment, Path(path), name) for name in ("first", "second"))
        table = table_of(Path(path))
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": environment.versions(),
        "first_run": first,
        "second_run": second,
        "table": table,
        "unit_tests": run_unit_tests(environment),
    }


def result_of(version: str) -> Path:
    """Where the last result of a release is kept."""
    return ROOT / "tests" / "engines" / "results" / f"flashinfer_{version}.json"


def main() -> None:
    """Measure each release that is named, and replace its result."""
    known = {version for family in FAMILIES for version in family.versions}
    for version in sys.argv[1:] or [family.versions[-1] for family in FAMILIES_RUN]:
        if version not in known:
            sys.exit(f"flashinfer-python {version} is of no known family: {', '.join(sorted(known))}")
        record(version)
        sys.stdout.write(result_of(version).read_text())


if __name__ == "__main__":
    main()
