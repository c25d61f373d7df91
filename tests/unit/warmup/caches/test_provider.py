"""A provider is code: no process takes it up unless every file is what was installed, and nobody else can write it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.manifest import set_of
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.provider import MARK, MODULES, PACKAGE, check, refusal
from ray_warmup.warmup.errors import UnsafeArchiveError
from tests.artifacts import make_artifact

NEEDS = {"flashinfer": "0.7.2", "architectures": "90a"}
CONTENTS = [
    Content("flashinfer_module", "gemm/gemm.so", b"gemm"),
    Content("flashinfer_module", "requirements.json", json.dumps(NEEDS).encode()),
]


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    """One module, installed."""
    directory = tmp_path / "installed" / "set"
    flashinfer_modules.install(CONTENTS, directory, NEEDS)
    return directory


def test_what_was_installed_is_accepted(provider: Path) -> None:
    """By itself and against its artifact's manifest; Python's own bytecode beside the package is no stranger's."""
    manifest = make_artifact(contents=CONTENTS).manifest
    (provider / PACKAGE / "__pycache__").mkdir(mode=0o755)
    (provider / PACKAGE / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"")
    assert refusal(provider, manifest.module_set) is None
    check(provider, manifest.module_set)
    assert refusal(provider, set_of([("other", "0" * 64)])) == (
        f"{provider / PACKAGE / MARK} names other modules than the manifest"
    )


def test_the_directory_on_the_path_holds_one_package(provider: Path) -> None:
    """Every Python process of an engine imports from it."""
    assert [path.name for path in provider.iterdir()] == [PACKAGE]


def plant(name: str) -> Callable[[Path], None]:
    """Write a file of that name into a provider."""

    def work(provider: Path) -> None:
        (provider / name).parent.mkdir(parents=True, exist_ok=True)
        (provider / name).write_text("raise SystemExit('planted')")

    return work


def change_shim(provider: Path) -> None:
    """Add a line to the package's own code."""
    with (provider / PACKAGE / "__init__.py").open("a") as file:
        file.write("\nraise SystemExit('planted')\n")


def change_module(provider: Path) -> None:
    """Another library of the same size."""
    (provider / PACKAGE / MODULES / "gemm/gemm.so").write_bytes(b"mmeg")


def describe_another(provider: Path) -> None:
    """A library and a description that fit each other."""
    flashinfer_modules.install([Content("flashinfer_module", "gemm/gemm.so", b"mmeg"), CONTENTS[1]], provider, NEEDS)


ATTACKS: list[tuple[Callable[[Path], None], str]] = [
    (plant("sitecustomize.py"), "sitecustomize.py does not belong there"),
    (plant("json/__init__.py"), "json does not belong there"),
    (plant(f"{PACKAGE}/other.py"), "other.py does not belong there"),
    (plant(f"{PACKAGE}/__pycache__/other.cpython-311.pyc"), "other.cpython-311.pyc does not belong there"),
    (plant(f"{PACKAGE}/{MODULES}/x/x.so"), "x.so does not belong there"),
    (change_shim, "__init__.py is not what was installed"),
    (change_module, "gemm.so is not what was installed"),
    (describe_another, "names other modules than the manifest"),
    (lambda provider: (provider / PACKAGE / MODULES / "gemm/gemm.so").unlink(), "gemm.so is missing"),
    (lambda provider: provider.chmod(0o777), "can be written by everybody"),
    (lambda provider: provider.parent.chmod(0o777), "can be written by everybody"),
    (lambda provider: (provider / PACKAGE / "__init__.py").chmod(0o666), "can be written by everybody"),
    (lambda provider: (provider / PACKAGE).chmod(0o775), "can be written by group"),
]
if os.geteuid() == 0:
    ATTACKS += [
        (lambda provider: os.chown(provider, 54321, -1), "belongs to user 54321"),
        (lambda provider: os.chown(provider / PACKAGE / MARK, 54321, -1), "belongs to user 54321"),
        (lambda provider: os.chown(provider.parent, 54321, -1), "belongs to user 54321"),
    ]


@pytest.mark.parametrize(("attack", "words"), ATTACKS, ids=[words for _, words in ATTACKS])
def test_anything_else_is_refused(provider: Path, attack: Callable[[Path], None], words: str) -> None:
    """By name, and nothing of it gets onto this process' path."""
    manifest = make_artifact(contents=CONTENTS).manifest
    attack(provider)
    assert words in (refusal(provider, manifest.module_set) or "")
    with pytest.raises(UnsafeArchiveError, match="no code is loaded from"):
        check(provider, manifest.module_set)
    if attack is not describe_another:  # consistent with itself: only its artifact knows
        before = list(sys.path)
        with pytest.raises(UnsafeArchiveError, match="no code is loaded from"):
            flashinfer_modules.activate(provider)
        assert sys.path == before
