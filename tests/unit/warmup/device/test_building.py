"""Building modules: several at a time, progress for each, failures with their name."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from ray_warmup.warmup.device import building
from ray_warmup.warmup.errors import CompileError
from tests.gemms import make_workload
from tests.libraries import build_library


class Spec:
    """A module that builds as a test wants."""

    is_aot = True

    def __init__(self, name: str, error: str = "", barrier: threading.Barrier | Gate | None = None) -> None:
        self.name, self.error, self.barrier, self.built = name, error, barrier, 0

    @property
    def is_compiled(self) -> bool:
        """Whether it was built."""
        return self.built > 0

    def build(self, *, verbose: bool, need_lock: bool) -> None:
        """Build, or fail."""
        assert need_lock
        if self.barrier is not None:
            self.barrier.wait(10)
        if self.error:
            raise RuntimeError(self.error)
        self.built += 1


class OnDisk:
    """A module whose library is a file."""

    is_compiled = True

    def __init__(self, path: Path, *, is_aot: bool = False) -> None:
        self.jit_library_path, self.is_aot = path, is_aot


@pytest.fixture(autouse=True)
def _max_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_modules_are_built_at_the_same_time() -> None:
    """With the CPUs for it two modules build together (each waits for the other), and both are reported."""
    barrier = threading.Barrier(2)
    specs = {name: Spec(name, barrier=barrier) for name in ("one", "two")}
    steps = list(building.build(specs, ["one", "two"], max_jobs=8))
    assert sorted(name for step in steps for name in step) == ["one", "two"]
    assert all(spec.is_compiled for spec in specs.values())


def test_what_is_finished_is_told_while_the_rest_builds() -> None:
    """The first module is named while the second cannot end yet; the second one goes on when nobody asks."""
    gate = threading.Barrier(2)
    specs = {"one": Spec("one"), "two": Spec("two", barrier=gate)}
    steps = building.build(specs, ["one", "two"], max_jobs=8)
    assert next(steps) == ("one",)
    assert not specs["two"].is_compiled
    gate.wait(10)
    assert list(steps) == [("two",)]


class Gate:
    """Something that a build waits at until the test opens it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self, limit_s: float) -> None:
        """The build's side."""
        self.reached.set()
        assert self.opened.wait(limit_s)


def test_whoever_stops_asking_does_not_wait() -> None:
    """A build that is dropped begins nothing more, and what it had begun goes on by itself."""
    gate = Gate()
    specs = {"one": Spec("one"), "two": Spec("two", barrier=gate), "three": Spec("three")}
    steps = building.build(specs, list(specs), max_jobs=4)
    assert next(steps) == ("one",)
    assert gate.reached.wait(10)
    steps.close()
    assert not specs["two"].is_compiled
    gate.opened.set()
    assert not specs["three"].is_compiled


def test_one_module_may_use_all_jobs() -> None:
    """The jobs are shared out among the modules that build at the same time."""
    from ray_warmup.configs import env

    assert list(building.build({"one": Spec("one")}, ["one"], max_jobs=12)) == [("one",)]
    assert {name: env.snapshot()[name] for name in ("MAX_JOBS", "OMP_NUM_THREADS")} == {
        "MAX_JOBS": "12",
        "OMP_NUM_THREADS": "12",
    }


def test_a_failed_build_names_its_module() -> None:
    """The error has the module's name and the end of the compiler's output; what had begun is finished before."""
    output = "\n".join(f"line {number}" for number in range(100))
    specs = {"bad": Spec("bad", output), "good": Spec("good")}
    with pytest.raises(CompileError, match="module bad did not build") as caught:
        list(building.build(specs, ["good", "bad"], max_jobs=8))
    assert specs["good"].is_compiled
    assert "line 99" in str(caught.value)
    assert "line 1\n" not in str(caught.value)
    assert caught.value.details["module"] == "bad"


def test_an_unknown_module_is_refused_and_none_is_nothing() -> None:
    """A name that no workload needs is an error; an empty list builds nothing."""
    with pytest.raises(CompileError, match="no prepared workload needs module x"):
        list(building.build({}, ["x"], max_jobs=2))
    assert list(building.build({}, [], max_jobs=2)) == []


def test_missing_modules_are_those_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not built is missing, each module once."""
    from ray_warmup.warmup.workloads import cpu_gemm

    specs = (Spec("one"), Spec("two"))
    monkeypatch.setattr(cpu_gemm, "jit_specs", lambda workload: specs)
    assert building.missing([make_workload(), make_workload("o_proj")]) == ["one", "two"]
    specs[0].built = 1
    assert building.missing([make_workload()]) == ["two"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to make a shared library with")
def test_what_a_killed_build_left_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is cut off counts as not built, so that COMPILING builds it and not the first call.

    One that was installed is FlashInfer's to judge: it warns and compiles where it cannot load it.
    """
    paths = {name: tmp_path / f"{name}.so" for name in ("whole", "part")}
    for name, path in paths.items():
        build_library(name, path)
    paths["part"].write_bytes(paths["part"].read_bytes()[:-64])
    specs = {name: OnDisk(path) for name, path in paths.items()} | {"installed": OnDisk(paths["part"], is_aot=True)}
    monkeypatch.setattr(building, "specs_of", lambda workloads: specs)
    assert building.missing([]) == ["part"]
