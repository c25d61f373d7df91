"""Resolve this project's wheel together with a released engine and record which versions come out.

    python -m tests.engines.resolve vllm==0.33.0          # writes tests/engines/results/resolution.json

Nothing is installed: pip reads the metadata of all packages, as it would for an environment of that engine. An engine
for which no set of versions exists is recorded with pip's own words.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("actors", "configs", "scripts", "warmup", "pyproject.toml", "README.md", "LICENSE")
"""What a wheel is built from, besides the root that links to the folders."""
RESULT = ROOT / "tests" / "engines" / "results" / "resolution.json"
PINS = ("torch", "triton", "flashinfer-python", "flashinfer_python", "ray", "pydantic", "numpy", "typer", "rich")
"""Versions that are recorded: the engine's pins, and what both sides need."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome for one engine."""

    engine: str
    resolves: bool
    versions: dict[str, str]
    error: str


def build_wheel(directory: Path) -> Path:
    """Build this project's wheel into a directory, from a copy: a build leaves metadata beside its sources."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "tree"
        copy.mkdir()
        for name in SOURCES:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, copy / name)
        (copy / "ray_warmup").mkdir()
        for entry in (ROOT / "ray_warmup").iterdir():
            if entry.name != "__pycache__":
                shutil.copy2(entry, copy / "ray_warmup" / entry.name, follow_symlinks=False)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory)]
        subprocess.run([*command, str(copy)], check=True)
    return next(directory.glob("ray_warmup-*.whl"))


def resolve(engine: str, wheel: Path, scratch: Path) -> Resolution:
    """Ask pip for one set of versions that satisfies the engine and the wheel."""
    report = scratch / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", str(report), str(wheel), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return Resolution(engine, False, {}, "\n".join(words))
    rows = [row["metadata"] for row in json.loads(report.read_text())["install"]]
    names = {*PINS, engine.partition("==")[0]}
    versions = {row["name"].lower(): row["version"] for row in rows if row["name"].lower() in names}
    return Resolution(engine, True, versions, "")


def main() -> None:
    """Resolve each engine that is named and replace the recorded result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", default=["vllm==0.33.0"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        rows = [resolve(engine, wheel, Path(scratch)) for engine in arguments.engines]
    made = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "wheel": wheel.name,
        "engines": [asdict(row) for row in rows],
    }
    RESULT.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(RESULT.read_text())
    sys.exit(not all(row.resolves for row in rows))


if __name__ == "__main__":
    main()
