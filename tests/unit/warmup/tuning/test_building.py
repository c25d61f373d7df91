"""Building modules: several at a time, progress for each, failures with their name."""

from __future__ import annotations

import threading

import pytest

from tests.gemms import make_workload
from warmup.errors import CompileError
from warmup.tuning import building


class Spec:
    """A module that builds as a test wants."""

    def __init__(self, name: str, error: str = "", barrier: threading.Barrier | None = None) -> None:
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


@pytest.fixture(autouse=True)
def _max_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_modules_are_built_at_the_same_time() -> None:
    """With the CPUs for it two modules build together (each waits for the other), and both are reported."""
    barrier = threading.Barrier(2)
    specs = {name: Spec(name, barrier=barrier) for name in ("one", "two")}
    said: list[str] = []
    building.build(specs, ["one", "two"], max_jobs=8, progress=said.append)
    assert sorted(line.split()[0] for line in said) == ["one", "two"]
    assert all(spec.is_compiled for spec in specs.values())


def test_one_module_may_use_all_jobs() -> None:
    """The jobs are shared out among the modules that build at the same time."""
    from configs import env

    building.build({"one": Spec("one")}, ["one"], max_jobs=12, progress=lambda _: None)
    assert {name: env.snapshot()[name] for name in ("MAX_JOBS", "OMP_NUM_THREADS")} == {
        "MAX_JOBS": "12",
        "OMP_NUM_THREADS": "12",
    }


def test_a_failed_build_names_its_module() -> None:
    """The error has the module's name and the end of the compiler's output."""
    output = "\n".join(f"line {number}" for number in range(100))
    with pytest.raises(CompileError, match="module bad did not build") as caught:
        building.build({"bad": Spec("bad", output)}, ["bad"], max_jobs=2, progress=lambda _: None)
    assert "line 99" in str(caught.value)
    assert "line 1\n" not in str(caught.value)
    assert caught.value.details["module"] == "bad"


def test_an_unknown_module_is_refused_and_none_is_nothing() -> None:
    """A name that no workload needs is an error; an empty list builds nothing."""
    with pytest.raises(CompileError, match="no prepared workload needs module x"):
        building.build({}, ["x"], max_jobs=2, progress=lambda _: None)
    building.build({}, [], max_jobs=2, progress=lambda _: pytest.fail("nothing to say"))


def test_missing_modules_are_those_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not built is missing, each module once."""
    from warmup.workloads import cpu_gemm

    specs = (Spec("one"), Spec("two"))
    monkeypatch.setattr(cpu_gemm, "jit_specs", lambda workload: specs)
    assert building.missing([make_workload(), make_workload("o_proj")]) == ["one", "two"]
    specs[0].built = 1
    assert building.missing([make_workload()]) == ["two"]
