"""Tune, publish, load and hit on the CPU with an older FlashInfer, in an environment of its own.

    python -m tests.engines.flashinfer_family              # the newest of each family of FAMILIES_RUN; minutes each
                                                           # (./scripts/test -m family tests/engines does the same)
    python -m tests.engines.flashinfer_family 0.6.18.post1

Makes `.engines/flashinfer-<version>` with pip on first use: this project's wheel, that FlashInfer with all that it
requires, torch and Triton. A rank tunes, guards, packs, publishes and loads on one node; one on another node installs
that and loads it; and finds it again (`family_ranks.py`, without Ray). Then come the unit tests of the AutoTuner's
seams. Writes `tests/engines/results/flashinfer_<version>.json`.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_warmup.warmup.families.known import FAMILIES, V0_6_18
from tests.artifacts import ROOT
from tests.engines.fetch import directory
from tests.engines.resolve import build_wheel

FAMILIES_RUN = (V0_6_18,)
"""The default run is of the newest family, with which every other test runs."""
TORCH = "torch==2.13.0"
RECORDED = ("flashinfer-python", "torch", "triton", "nvidia-cutlass-dsl", "apache-tvm-ffi", "ray")
UNIT_TESTS = [f"tests/unit/warmup/device/test_{name}.py" for name in ("seams", "loading", "factory")]
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


def run_step(environment: Environment, step: str, scratch: Path) -> dict[str, Any]:
    """Run one step of `family_ranks` in a process of its own and return what it printed."""
    environ = {
        "PATH": f"{environment.python.parent}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "FLASHINFER_WORKSPACE_BASE": str(scratch / "flashinfer"),
        "FLASHINFER_LOGGING_LEVEL": "WARNING",
        "TQDM_DISABLE": "1",
    }
    command = [str(environment.python), "-m", "tests.engines.family_ranks", step, str(scratch)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_unit_tests(environment: Environment) -> str:
    """Run the unit tests of the seams on this checkout with the environment's libraries: the last line of pytest."""
    command = [str(environment.python), "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *UNIT_TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1])


def table_of(scratch: Path) -> dict[str, Any]:
    """Describe the table on the second node's disk."""
    (path,) = (scratch / "node1").rglob("autotune_configs.json")
    table = json.loads(path.read_text())
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
        steps = {step: run_step(environment, step, Path(path)) for step in ("tune", "join", "return")}
        table = table_of(Path(path))
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": environment.versions(),
        "steps": steps,
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
