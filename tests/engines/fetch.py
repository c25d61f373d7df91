"""Fetch the wheels of released engines without their dependencies, for tests that read their source.

    python -m tests.engines.fetch                         # the newest of each kind, as CI does
    python -m tests.engines.fetch vllm==0.33.0            # into .engines/, or $ENGINE_WHEELS
    python -m tests.engines.fetch flashinfer-python       # every release of it that a contract test reads

A wheel that lies there already is not fetched again, and none lies there in part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ray_warmup.actors.joining.serve_llm_contract import SERVE_LLM
from ray_warmup.warmup.engines.sglang.versions import SGLANG
from ray_warmup.warmup.engines.vllm.versions import VLLM
from ray_warmup.warmup.families.known import FAMILIES, known_versions
from tests.artifacts import ROOT

RELEASES = {
    "vllm": tuple(VLLM.versions),
    "sglang": tuple(SGLANG.versions),
    "flashinfer-python": known_versions(),
    "ray": tuple(SERVE_LLM.versions),
}
"""The releases whose source the contract tests read, oldest first."""
NEWEST = (
    f"vllm=={list(VLLM.versions)[-1]}",
    f"ray=={list(SERVE_LLM.versions)[-1]}",
    *(f"flashinfer-python=={family.versions[-1]}" for family in FAMILIES),
)
"""What CI fetches: the newest vLLM, the newest Ray, and the newest FlashInfer of each family (18 to 80 MB each)."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34)] + ["manylinux2014_x86_64", "any"]


def directory() -> Path:
    """Where wheels are kept between runs."""
    return Path(os.environ.get("ENGINE_WHEELS") or ROOT / ".engines")


def wheel_of(requirement: str) -> Path | None:
    """The fetched wheel of `name==version`; None where it was not fetched."""
    name, _, version = requirement.partition("==")
    found = sorted(directory().glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    return found[0] if found else None


def fetch(requirement: str) -> Path:
    """Download one wheel for Python 3.12 on Linux x86-64. Raises CalledProcessError."""
    found = wheel_of(requirement)
    if found is not None:
        return found
    directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory()) as unfinished:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", "3.12", "--implementation", "cp", "--dest", unfinished]
        command += [part for name in PLATFORMS for part in ("--platform", name)]
        subprocess.run([*command, requirement], check=True)
        for wheel in Path(unfinished).glob("*.whl"):
            wheel.replace(directory() / wheel.name)
    fetched = wheel_of(requirement)
    assert fetched is not None, f"pip fetched no wheel of {requirement}"
    return fetched


def requirements(word: str) -> list[str]:
    """Return the releases that a word means: itself, or all that are read of a name without a version."""
    return [f"{word}=={version}" for version in RELEASES[word]] if word in RELEASES else [word]


def main() -> None:
    """Fetch each requirement that is named."""
    for requirement in [each for word in sys.argv[1:] for each in requirements(word)] or NEWEST:
        try:
            sys.stdout.write(f"{fetch(requirement)}\n")
        except subprocess.CalledProcessError as error:
            sys.exit(f"{requirement} could not be fetched: pip ended with exit code {error.returncode}")


if __name__ == "__main__":
    main()
