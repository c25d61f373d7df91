"""The private seams of FlashInfer: pinned signatures, what they show, and that they are always restored."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ray_warmup.warmup.device.autotuner_seams import (
    capture_call,
    forced,
    look_up,
    metadata,
    profiled,
    tuned_keys,
)
from ray_warmup.warmup.device.cpu_measure import cpu_timing
from ray_warmup.warmup.device.tuning_request import Attempt, json_tactic
from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.families.library import AutoTuner, choose_family, flashinfer, installed_family, private
from ray_warmup.warmup.workloads import cpu_gemm_op as op


def call(m: int = 4, k: int = 64, n: int = 96) -> Callable[[], Any]:
    """One GEMM, ready to be run."""
    a, weight = torch.ones(m, k), torch.ones(n, k)
    return lambda: op.cpu_gemm(a, weight)


FAMILY = installed_family()
"""Of the FlashInfer that these tests run with; a family's own environment runs them too."""


def test_the_installed_release_was_read() -> None:
    """The installed FlashInfer is one whose source was read, and while it lacks memory it empties torch's cache."""
    assert flashinfer.__version__ in FAMILY.versions
    assert "torch.cuda.empty_cache()" in inspect.getsource(AutoTuner.choose_one)


@pytest.mark.parametrize("name", FAMILY.methods)
def test_a_changed_method_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A FlashInfer whose seam has other parameters is refused before anything is tuned."""
    monkeypatch.setattr(AutoTuner, name, lambda self, something_else: None)
    with pytest.raises(TuningError, match=rf"{name}\(self, something_else\) instead of"):
        choose_family(flashinfer.__version__)


@pytest.mark.parametrize("name", FAMILY.functions)
def test_a_missing_function_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same for functions of the module."""
    monkeypatch.delattr(private, name)
    with pytest.raises(TuningError, match=f"no {name}"):
        choose_family(flashinfer.__version__)


def test_metadata_has_the_familys_fields() -> None:
    """FlashInfer writes exactly the fields that a table must have, all of them text."""
    assert tuple(metadata()) == FAMILY.metadata_fields
    assert all(isinstance(value, str) and value for value in metadata().values())


def test_tactics_become_hashable() -> None:
    """Nested tactics are written as tuples."""
    assert json_tactic([0, ((12, 0),)]) == (0, ((12, 0),))
    assert json_tactic(3) == 3


def test_capture_shows_the_request_and_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured call has op, runners and inputs, and no runner was started."""
    monkeypatch.setattr(op.DirectGemmRunner, "forward", lambda *_, **__: pytest.fail("a kernel ran"))
    captured = capture_call(call(m=4))
    assert captured.op == "cpu_gemm"
    assert captured.default_runner == "DirectGemmRunner"
    assert list(captured.file_keys()) == ["DirectGemmRunner", "SwappedGemmRunner", "SplitGemmRunner"]
    assert captured.inputs[0].shape == (4, 64)
    assert captured.bucket(3) == 4
    assert (captured.policy() is None) == (FAMILY.entry_width == 2)


def test_captured_tactics_run() -> None:
    """Every runner and tactic of a captured request gives the same product."""
    a, weight = torch.rand(4, 64), torch.rand(96, 64)
    captured = capture_call(lambda: op.cpu_gemm(a, weight))
    for runner, tactic in (
        ("DirectGemmRunner", -1),
        ("DirectGemmRunner", 1),
        ("SwappedGemmRunner", 1),
        ("SplitGemmRunner", ("k", 2)),
        ("SplitGemmRunner", ("batch", 4)),
        ("SplitGemmRunner", ("n", 4)),
        ("SplitGemmRunner", -1),
    ):
        assert torch.allclose(captured.run(runner, tactic), a @ weight.T, atol=1e-4)
    with pytest.raises(TuningError, match="no runner Missing"):
        captured.run("Missing", 0)


def test_a_call_without_a_request_is_an_error() -> None:
    """Looking for an op that the call does not make fails with the op's name."""
    for look in (
        lambda: capture_call(lambda: 1),
        lambda: capture_call(call(), "other_op"),
        lambda: look_up(call(), "other_op"),
    ):
        with pytest.raises(TuningError, match="never asked"):
            look()


def test_runners_that_share_a_key_are_seen() -> None:
    """Two runners of one class have one file key; two classes do not."""
    one = op.DirectGemmRunner()

    def twice() -> None:
        AutoTuner.get().choose_one(
            "x", [one, op.DirectGemmRunner()], op.TUNING_CONFIG, [torch.ones(2, 4), torch.ones(4, 4)]
        )

    assert capture_call(twice).shares_a_key()
    assert not capture_call(call()).shares_a_key()


def test_lookup_outside_tuning_only() -> None:
    """An untuned call is a miss that serves the default; inside `autotune()` a lookup is refused."""
    found = look_up(call(), "cpu_gemm")
    assert (found.hit, found.runner, found.tactic) == (False, "DirectGemmRunner", -1)
    with flashinfer.autotune(), pytest.raises(TuningError, match="inside an autotune"):
        look_up(call(), "cpu_gemm")


def tune(time_tactic: Callable[[Attempt], float]) -> Any:
    """Tune the call at bucket 4 with these times."""
    with cpu_timing(), profiled("cpu_gemm", time_tactic) as seen, flashinfer.autotune(tuning_buckets=(4,)):
        call(m=4)()
    return seen


def test_our_times_decide_and_the_lookup_hits() -> None:
    """FlashInfer chooses by the times that we give it, and finds its choice afterwards."""

    def planted(attempt: Attempt) -> float:
        return 1.0 if (attempt.runner_name, attempt.tactic) == ("SplitGemmRunner", ("n", 4)) else 2.0

    seen = tune(planted)
    assert tuned_keys("cpu_gemm") == {seen.captured.file_keys()["SplitGemmRunner"]}
    found = look_up(call(m=3), "cpu_gemm")
    assert (found.hit, found.runner, found.tactic) == (True, "SplitGemmRunner", ("n", 4))
    assert not seen.out_of_memory


def test_a_tactic_that_raises_is_skipped() -> None:
    """A failing tactic is passed over; when all fail there is no winner."""

    def only_swapped(attempt: Attempt) -> float:
        if attempt.runner_name != "SwappedGemmRunner":
            raise RuntimeError("planted")
        return 1.0

    seen = tune(only_swapped)
    assert tuned_keys("cpu_gemm") == {seen.captured.file_keys()["SwappedGemmRunner"]}
    AutoTuner.get().clear_cache()

    def none(attempt: Attempt) -> float:
        raise RuntimeError("planted")

    tune(none)
    assert tuned_keys("cpu_gemm") == set()


def test_out_of_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashInfer swallows it and answers with the default; we see it."""

    def no_memory(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(op.SwappedGemmRunner, "get_valid_tactics", no_memory)
    assert tune(lambda _: 1.0).out_of_memory
    assert tuned_keys("cpu_gemm") == set()


def test_emptying_the_cache_alone_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning a CUDA graph empties torch's cache too; only what happens while an error is handled counts."""

    def times(attempt: Attempt) -> float:
        torch.cuda.empty_cache()
        return 1.0

    assert not tune(times).out_of_memory

    def one_fails(attempt: Attempt) -> float:
        if attempt.tactic == ("k", 2):
            raise torch.cuda.OutOfMemoryError("planted")
        return 1.0

    AutoTuner.get().clear_cache()
    assert tune(one_fails).out_of_memory


@pytest.mark.parametrize("enter", [capture_call, lambda fn: look_up(fn, "cpu_gemm")])
def test_seams_are_restored_when_the_call_fails(enter: Callable[[Callable[[], Any]], Any]) -> None:
    """An exception in the call passes through, and every method is FlashInfer's own again."""
    with pytest.raises(ZeroDivisionError):
        enter(lambda: 1 / 0)
    assert not {"choose_one", "search_cache", "_profile_single_kernel"} & set(AutoTuner.get().__dict__)


def test_tuning_restores_torch_too() -> None:
    """Neither the answer about graph capture nor the cache function of torch stays replaced."""
    before = torch.cuda.is_current_stream_capturing, torch.cuda.empty_cache
    with pytest.raises(KeyboardInterrupt):
        tune(_interrupt)
    assert (torch.cuda.is_current_stream_capturing, torch.cuda.empty_cache) == before
    assert not AutoTuner.get().is_tuning_mode


def _interrupt(attempt: Attempt) -> float:
    raise KeyboardInterrupt


def test_nested_seams_are_restored_in_order() -> None:
    """A seam inside another one leaves the outer one in place."""
    with forced("cpu_gemm", "SwappedGemmRunner", 1):
        outer = AutoTuner.get().choose_one
        capture_call(call())
        assert AutoTuner.get().choose_one == outer


def test_forced_tactics_are_the_ones_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the block the named tactic answers, outside the default."""
    ran: list[Any] = []
    original = op.SwappedGemmRunner.forward

    def spy(self: Any, inputs: Any, tactic: Any = -1, **rest: Any) -> Any:
        ran.append(tactic)
        return original(self, inputs, tactic, **rest)

    monkeypatch.setattr(op.SwappedGemmRunner, "forward", spy)
    with forced("cpu_gemm", "SwappedGemmRunner", 1):
        call()()
    call()()
    assert ran == [1]


def test_a_missing_attribute_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for what is read of an AutoTuner."""
    monkeypatch.delattr(AutoTuner, "_override_tuning_buckets")
    with pytest.raises(TuningError, match="no _override_tuning_buckets"):
        choose_family(flashinfer.__version__)
