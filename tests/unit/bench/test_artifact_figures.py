"""The bars of the benchmark of joins: each holds for a good run and is missed where its fact is not so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.artifact_figures import Measured, bars_of, figures_of, show


def measured() -> Measured:
    """A run that clears every bar."""

    def report(total: float, tune: float = 0.0, **facts: Any) -> dict[str, Any]:
        seconds = {"total": total, "compile": 1.0, "kernels": 0.5, "tune": tune}
        quiet = {"device": "H", "driver": "1", "tasks": 3, "tools": {}, "triton_compilations": 0, "misses": 0}
        return {"seconds": seconds, "failed": [], **quiet, **facts}

    nothing = report(200.0, 99.5, tools={"nvcc": 4, "ninja": 1}, triton_compilations=2)
    joins = {"nothing": nothing, "whole": report(2.0), "engine": report(3.0)}
    sizes = {"timings": {"files": 1, "stored_bytes": 10, "content_bytes": 20}}
    return Measured(joins, {"cold": nothing, "with the kernels": report(60.0, 49.5)}, sizes)


def test_a_good_run_clears_every_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """Eight bars hold, and the figures are sums and ratios of what the steps reported."""
    figures, bars = figures_of(measured()), bars_of(measured())
    assert len(bars) == 8
    assert all(bars.values())
    assert (figures["ratio"], figures["tune_s"]) == (100.0, {"cold": 100.0, "with the kernels": 50.0})
    assert figures["compile_and_tune_s"] == {"cold": 101.0, "with the kernels": 51.0}
    show({**figures, "bars": bars | {"a planted one": False}})
    said = capsys.readouterr().out
    assert said.count("holds ") == 8
    assert "MISSED  a planted one" in said


@pytest.mark.parametrize(
    ("step", "facts", "missed"),
    [
        ("whole", {"seconds": {"total": 2.6}}, "at most 2.5 s"),
        ("nothing", {"seconds": {"total": 90.0, "tune": 100.0}}, "50 times faster"),
        ("whole", {"tools": {"nvcc": 1}}, "starts no compiler"),
        ("whole", {"triton_compilations": 1}, "compiles no Triton kernel"),
        ("engine", {"tools": {"g++": 1}}, "nor does the engine's"),
        ("engine", {"misses": 1}, "every task is hit"),
        ("whole", {"failed": ["t"]}, "every task is hit"),
        ("nothing", {"tools": {"ninja": 1}}, "starts nvcc and ninja"),
        ("nothing", {"triton_compilations": 0}, "compiles Triton kernels (positive"),
    ],
)
def test_a_bar_is_missed_where_its_fact_is_not_so(step: str, facts: dict[str, Any], missed: str) -> None:
    """That bar alone."""
    found = measured()
    found.joins[step].update(facts)
    assert [bar for bar, holds in bars_of(found).items() if not holds and missed in bar]
    assert sum(not holds for holds in bars_of(found).values()) == 1


def test_tuning_again_must_be_faster_where_it_was_measured() -> None:
    """Over 80 % of the time misses the bar; without that step there is no bar."""
    found = measured()
    found.tuned["with the kernels"]["seconds"]["tune"] = 80.0
    assert [bar for bar, holds in bars_of(found).items() if not holds] == [
        "tuning takes at most 80% of its time where the artifact is"
    ]
    del found.tuned["with the kernels"]
    assert all(bars_of(found).values())
