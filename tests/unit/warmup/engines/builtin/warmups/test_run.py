"""Running the warmups: order, severity, deadlines, step-wise ranks, lost devices, the report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ray_warmup.configs.engine_warmups import DEFAULT_DEADLINES
from ray_warmup.configs.schema import EngineSection
from ray_warmup.warmup.engines.builtin.runner.errors import MissingCapabilityError
from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from ray_warmup.warmup.engines.builtin.warmups.spec import Notes, Shape, Skip, Stage
from ray_warmup.warmup.errors import DeadContextError


class Scripted:
    """A warmup of given shapes, that may fail at one of them."""

    leaves = ()
    uses: tuple[Any, ...] = ()

    def __init__(self, name: str, stage: Stage = Stage.PREPARATION, severity: Any = "required", **script: Any) -> None:
        self.name, self.stage, self.severity = name, stage, severity
        self._script = script
        self.consumed: frozenset[str] = frozenset()

    def gate(self, context: Any) -> Skip | None:
        if "gate_raises" in self._script:
            raise self._script["gate_raises"]
        return self._script.get("skip")

    def shapes(self, context: Any) -> tuple[Shape, ...]:
        return tuple(Shape("s", count) for count in self._script.get("tokens", (1, 2)))

    def run(self, context: Any, shape: Shape) -> Notes:
        self.consumed = context.consumed
        if self._script.get("fails_at") == shape.tokens:
            raise ValueError("planted")
        return self._script.get("notes", Notes())


@pytest.fixture
def context(make_context: Any, make_runner: Any) -> Any:
    """A tiny real runner's context."""
    return make_context(make_runner())


def test_a_failing_optional_warmup_is_reported_and_does_not_stop_readiness(context: Any) -> None:
    """The failure and the last good shape are in the report's warnings; the others run; the rank is ready."""
    report = run_engine_warmups(context, (Scripted("a", severity="optional", fails_at=2), Scripted("b")))

    assert report.ready
    assert [outcome.state for outcome in report.outcomes] == ["failed", "done"]
    assert report.warnings == ("a failed (optional): ValueError: planted (after s[tokens=1])",)


def test_a_failing_required_warmup_stops_readiness_and_not_the_others(context: Any) -> None:
    """The rank is not ready, and still learns about the other warmups."""
    report = run_engine_warmups(context, (Scripted("a", fails_at=1), Scripted("b")))

    assert not report.ready
    assert report.outcome("a").reason == "ValueError: planted (after no shape)"
    assert report.outcome("b").state == "done"


def test_a_missed_deadline_names_warmup_shape_and_setting(context: Any) -> None:
    """A warmup past its deadline ends at the next shape, with the times and the setting in the message."""
    times = iter([0.0, 5.0, 700.0, 701.0])

    outcome = run_engine_warmups(context, (Scripted("prefill_decode"),), clock=lambda: next(times)).outcomes[0]

    assert outcome.state == "failed"
    assert "prefill_decode took 700.0 s up to s[tokens=2], its deadline is 600.0 s" in outcome.reason
    assert "raise engine.deadlines.prefill_decode" in outcome.reason
    assert outcome.shapes == ("s[tokens=1]",)


def test_another_order_is_refused(context: Any) -> None:
    """The sampler's warmups never run before the autotune's."""
    with pytest.raises(ValueError, match=r"out of order.*SAMPLER:b.*AUTOTUNE:a"):
        run_engine_warmups(context, (Scripted("b", Stage.SAMPLER), Scripted("a", Stage.AUTOTUNE)))


def test_the_registered_order_is_by_stage_and_every_deadline_exists() -> None:
    """Preparation, autotune, graph-sensitive, sampler; each warmup's deadline has a default."""
    assert [(warmup.stage, warmup.name) for warmup in ENGINE_WARMUPS] == [
        (Stage.PREPARATION, "slot_mapping"),
        (Stage.PREPARATION, "prefill_decode"),
        (Stage.AUTOTUNE, "sm120_decode"),
        (Stage.GRAPH_SENSITIVE, "sparse_mla"),
        (Stage.GRAPH_SENSITIVE, "serving_shapes"),
        (Stage.GRAPH_SENSITIVE, "graph_capture"),
        (Stage.SAMPLER, "sampler_features"),
    ]
    assert {warmup.name for warmup in ENGINE_WARMUPS} == set(DEFAULT_DEADLINES)
    assert all(warmup.leaves for warmup in ENGINE_WARMUPS)


def test_a_lost_device_ends_everything(context: Any) -> None:
    """When the device does not synchronise after a failure, the error says that the process must be replaced."""
    calls = []

    def synchronize() -> None:
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeadContextError, match=r"after engine warmup a failed.*illegal memory access"):
        run_engine_warmups(replace(context, synchronize=synchronize), (Scripted("a", fails_at=1), Scripted("b")))

    assert calls


def test_what_one_warmup_consumed_the_next_one_knows(context: Any) -> None:
    """Consumed shapes accumulate from warmup to warmup."""
    last = Scripted("c")

    run_engine_warmups(
        context,
        (
            Scripted("a", notes=Notes(consumed=frozenset({"x"}))),
            Scripted("b", notes=Notes(consumed=frozenset({"y"}))),
            last,
        ),
    )

    assert last.consumed == {"x", "y"}


def test_skips_are_in_the_report_with_their_reasons(context: Any) -> None:
    """A gate's reason and a warmup that was disabled are visible; a skip that warns is a warning."""
    context = replace(context, options=replace(context.options, engine=EngineSection(disabled=("graph_capture",))))

    report = run_engine_warmups(context, (Scripted("a", skip=Skip("because", warn=True)), Scripted("graph_capture")))

    assert [(o.name, o.state, o.reason) for o in report.outcomes] == [
        ("a", "skipped", "because"),
        ("graph_capture", "skipped", "disabled by engine.disabled"),
    ]
    assert report.warnings == ("a: because",)
    assert json.loads(json.dumps(report.to_json()))["outcomes"][1]["state"] == "skipped"


def test_a_gate_that_raises_is_that_warmups_failure(context: Any) -> None:
    """What an engine's runner or a broken library raises at a gate is named, by severity; the others run."""
    broken = Scripted("a", severity="optional", gate_raises=OSError("libcuda.so.1: cannot open"))

    report = run_engine_warmups(context, (broken, Scripted("b")))

    assert report.ready
    assert report.warnings == ("a failed (optional): its gate: OSError: libcuda.so.1: cannot open",)
    assert report.outcome("b").state == "done"
    assert not run_engine_warmups(context, (Scripted("a", gate_raises=ValueError()),)).ready


def test_a_capability_that_turns_out_to_be_missing_is_a_skip(context: Any) -> None:
    """A runner that says only during the run what it lacks is skipped with its reason and a warning."""

    class Lacking(Scripted):
        def run(self, context: Any, shape: Shape) -> Notes:
            if shape.tokens == 2:
                raise MissingCapabilityError("runner lacks uniform_decode")
            return super().run(context, shape)

    report = run_engine_warmups(context, (Lacking("a", notes=Notes(("said before",))),))

    assert report.ready
    assert report.outcome("a").state == "skipped"
    assert report.warnings == ("a: said before", "a: runner lacks uniform_decode")


def test_an_unknown_outcome_is_an_error(context: Any) -> None:
    """Asking for a warmup that did not take part names it."""
    with pytest.raises(KeyError, match="nothing"):
        run_engine_warmups(context, ()).outcome("nothing")
