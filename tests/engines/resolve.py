"""Resolve this project's wheel together with a released engine and record which versions come out.

    python -m tests.engines.resolve                       # every release of every contract, minutes each
    python -m tests.engines.resolve vllm==0.33.0          # writes tests/engines/results/resolution.json

Nothing is installed: pip reads the metadata of all packages, as it would for an environment of that engine. An engine
for which no set of versions exists is recorded with pip's own words. A named release replaces its own row alone.
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
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.engines.contracts import CONTRACTS
from tests.engines.fetch import fetch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("actors", "configs", "scripts", "warmup", "pyproject.toml", "README.md", "LICENSE")
"""What a wheel is built from, besides the root that links to the folders."""
RESULT = ROOT / "tests" / "engines" / "results" / "resolution.json"
PINS = ("torch", "triton", "flashinfer-python", "flashinfer_python", "ray", "pydantic", "numpy", "typer", "rich")
"""Versions that are recorded: the engine's pins, and what both sides need."""


LEFT_OUT = dict.fromkeys(
    (f"sglang==0.5.{patch}" for patch in (19, 20, 21, 22)),
    "cuda-tile==1.6.0rc5",
)
"""Release -> a requirement that is left out: the index has no wheel of it, only a source package that fetches one from
another index, so that the engine alone does not resolve either."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome for one engine."""

    engine: str
    resolves: bool
    versions: dict[str, str]
    error: str
    left_out: str = ""


def build_wheel(directory: Path) -> Path:
    """Build this project's wheel into a directory, from a copy: a build leaves metadata beside its sources."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel_of(copy_of_the_tree(Path(scratch) / "tree"), directory)
    return next(directory.glob("ray_warmup-*.whl"))


def build_sdist(directory: Path) -> Path:
    """Build this project's source archive into a directory, from a copy, with the pinned setuptools."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = copy_of_the_tree(Path(scratch) / "tree")
        code = f"from setuptools import build_meta; build_meta.build_sdist({str(directory)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return next(directory.glob("ray_warmup-*.tar.gz"))


def wheel_of(source: Path, directory: Path) -> None:
    """Build the wheel of a tree or of a source archive."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory)]
    subprocess.run([*command, str(source)], check=True)


def copy_of_the_tree(copy: Path) -> Path:
    """Copy what a build needs."""
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        else:
            shutil.copy2(ROOT / name, copy / name)
    (copy / "ray_warmup").mkdir()
    for entry in (ROOT / "ray_warmup").iterdir():
        if entry.name != "__pycache__":
            shutil.copy2(entry, copy / "ray_warmup" / entry.name, follow_symlinks=False)
    return copy


def resolve(engine: str, wheel: Path, scratch: Path) -> Resolution:
    """Ask pip for one set of versions that satisfies the engine and the wheel."""
    report = scratch / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    left_out = LEFT_OUT.get(engine, "")
    asked = str(without(engine, left_out, scratch)) if left_out else engine
    command += ["--only-binary=:all:", "--report", str(report), str(wheel), asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return Resolution(engine, False, {}, "\n".join(words), left_out)
    return Resolution(engine, True, versions_in(report, engine), "", left_out)


def versions_in(report: Path, engine: str) -> dict[str, str]:
    """Return the versions of the recorded libraries in pip's report."""
    rows = [row["metadata"] for row in json.loads(report.read_text())["install"]]
    names = {*PINS, engine.partition("==")[0]}
    return {row["name"].lower(): row["version"] for row in rows if row["name"].lower() in names}


def without(engine: str, requirement: str, scratch: Path) -> Path:
    """Write a wheel with an engine's metadata, without its code and one of its requirements."""
    name, _, version = engine.partition("==")
    made = scratch / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(fetch(engine)) as wheel, zipfile.ZipFile(made, "w") as copy:
        metadata = next(entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
        lines = wheel.read(metadata).decode().splitlines()
        kept = [line for line in lines if line != f"Requires-Dist: {requirement}"]
        assert len(kept) < len(lines), f"{engine} does not require {requirement}"
        copy.writestr(metadata, "\n".join(kept))
        directory = metadata.partition("/")[0]
        copy.writestr(f"{directory}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        copy.writestr(f"{directory}/RECORD", "")
    return made


def main() -> None:
    """Resolve each engine that is named and replace the recorded result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [f"{name}=={version}" for name, contract in CONTRACTS.items() for version in contract.versions]
    parser.add_argument("engines", nargs="*", default=every)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        rows = [resolve(engine, wheel, Path(scratch)) for engine in arguments.engines]
    before = json.loads(RESULT.read_text())["engines"] if RESULT.is_file() else []
    others = [row for row in before if row["engine"] not in arguments.engines]
    made = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "wheel": wheel.name,
        "engines": sorted([*others, *(asdict(row) for row in rows)], key=lambda row: str(row["engine"])),
    }
    RESULT.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(RESULT.read_text())
    sys.exit(not all(row.resolves for row in rows))


if __name__ == "__main__":
    main()
