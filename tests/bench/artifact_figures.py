"""What `tests/bench/bench_artifact.py` measured: its figures, the bars that they must clear, and both for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JOIN_BAR_S = 2.5
RATIO_BAR = 50.0
RETUNE_BAR = 0.8


@dataclass(frozen=True, slots=True)
class Measured:
    """The reports of the steps, by what each had."""

    joins: dict[str, dict[str, Any]]
    """`nothing`, `whole`, `engine`, and `table` unless it was left out."""
    tuned: dict[str, dict[str, Any]]
    """`cold`, and `with the kernels` unless it was left out."""
    sizes: dict[str, dict[str, int]]

    @property
    def ratio(self) -> float:
        """How many times faster the whole artifact is than nothing."""
        return float(self.joins["nothing"]["seconds"]["total"] / self.joins["whole"]["seconds"]["total"])

    @property
    def tune_s(self) -> dict[str, float]:
        """Seconds of each tune, its kernels put in place first."""
        return {
            name: sum(report["seconds"].get(part, 0.0) for part in ("kernels", "tune"))
            for name, report in self.tuned.items()
        }


def bars_of(measured: Measured) -> dict[str, bool]:
    """What must hold, each with whether it does."""
    nothing, whole, engine = (measured.joins[name] for name in ("nothing", "whole", "engine"))
    bars = {
        f"join with the whole artifact takes at most {JOIN_BAR_S} s": whole["seconds"]["total"] <= JOIN_BAR_S,
        f"and is at least {RATIO_BAR:.0f} times faster than with nothing": measured.ratio >= RATIO_BAR,
        "it starts no compiler and compiles no Triton kernel": whole["tools"] == {}
        and not whole["triton_compilations"],
        "nor does the engine's process": engine["tools"] == {} and not engine["triton_compilations"],
        "every task is hit in both": whole["misses"] == engine["misses"] == 0 and not whole["failed"],
        "building starts nvcc and ninja (positive control)": {"nvcc", "ninja"} <= set(nothing["tools"]),
        "and compiles Triton kernels (positive control)": nothing["triton_compilations"] > 0,
    }
    if "with the kernels" in measured.tuned:
        bars[f"tuning takes at most {RETUNE_BAR:.0%} of its time where the artifact is"] = (
            measured.tune_s["with the kernels"] <= RETUNE_BAR * measured.tune_s["cold"]
        )
    return bars


def figures_of(measured: Measured) -> dict[str, Any]:
    """What was measured, and on what."""
    nothing = measured.joins["nothing"]
    return {
        "device": nothing["device"],
        "driver": nothing["driver"],
        "tasks": nothing["tasks"],
        "join_s": {name: report["seconds"]["total"] for name, report in measured.joins.items()},
        "ratio": measured.ratio,
        "tune_s": measured.tune_s,
        "compile_and_tune_s": {
            name: seconds + measured.tuned[name]["seconds"].get("compile", 0.0)
            for name, seconds in measured.tune_s.items()
        },
        "artifact": measured.sizes,
    }


def show(document: dict[str, Any]) -> None:
    """The figures for people."""
    print(f"\n{document['device']}, driver {document['driver']}, {document['tasks']} tasks")
    for name, seconds in document["join_s"].items():
        print(f"  join with {name:<8} {seconds:8.2f} s")
    print(f"  nothing / whole    {document['ratio']:8.1f}")
    for name, seconds in document["tune_s"].items():
        print(f"  tuning, {name:<17} {seconds:8.1f} s, with compiling {document['compile_and_tune_s'][name]:8.1f} s")
    for kind, row in document["artifact"].items():
        print(f"  {kind:<20} {row['files']:4d} files {row['stored_bytes']:>10d} bytes stored")
    for bar, holds in document["bars"].items():
        print(f"  {'holds ' if holds else 'MISSED'}  {bar}")
