"""What `bench_gpu.py` shows of its rows: one table for all numbers of GPUs, today's way, and the figures with a bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PHASES = ("PLACING", "PROBING", "COMPILING", "TUNING", "GUARDING", "PACKING", "PUSHING", "INSTALLING", "LOADING")
COLUMNS = (*PHASES, "REPLAYING")
RESTART = ("LOOKUP", "COMPILING", "TUNING", "GUARDING", "PUSHING", "INSTALLING", "LOADING", "REPLAYING")
"""What a restart does beside imports and CUDA context."""
SHARDED_BAR, DELIVERY_BAR_S, RESTART_BAR_S = 3.3, 0.5, 2.0

Row = dict[str, Any]


def todays_row(leader: Row, exchange_s: float) -> Row:
    """The leader-only run with its push and install replaced by a gloo exchange; nothing compiled is packed."""
    phases = leader["phases"]
    ours = phases["PUSHING"] + phases["INSTALLING"]
    name = leader["scenario"].replace("leader", "today's way")
    return {
        "scenario": name,
        "gpus": leader["gpus"],
        "exit": 0,
        "wall_s": leader["wall_s"] - ours + exchange_s,
        "phases": phases | {"PUSHING": exchange_s, "INSTALLING": 0.0},
    }


def seconds_of(row: Row) -> dict[str, float]:
    """Seconds per phase; PUSHING without the leader's packing, which is PACKING.

    Packing replays the table in a fresh process, for the driver's kernels of the winners alone.
    """
    phases: dict[str, float] = row.get("phases", {})
    if "classes" not in row:
        return phases
    packing = sum(row["rank_phases"][group["leader"]].get("PUSHING", 0.0) for group in row["classes"])
    return phases | {"PACKING": packing, "PUSHING": max(0.0, phases.get("PUSHING", 0.0) - packing)}


def table(rows: list[Row]) -> str:
    """Seconds per phase, one row per scenario and number of GPUs, as markdown."""
    lines = [
        "| scenario | GPUs | wall | " + " | ".join(name.lower() for name in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for row in rows:
        seconds = seconds_of(row)
        cells = [f"{seconds[name]:.2f}" if seconds.get(name) else "-" for name in COLUMNS]
        lines.append(f"| {row['scenario']} | {row['gpus']} | {row['wall_s']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(rows: list[Row]) -> list[str]:
    """Sharded against leader-only and against today's way; delivery and warm restart beside their bars."""
    known = {(row["gpus"], row["scenario"]): row for row in rows if row["exit"] == 0}
    lines = [*_against(known)]
    for (gpus, name), row in known.items():
        if "classes" not in row:
            continue
        seconds = seconds_of(row)
        if name.endswith("hit"):
            rest = sum(seconds.get(phase, 0.0) for phase in RESTART)
            bar = f" (bar {RESTART_BAR_S:.0f})" if name.startswith("bf16") else ""
            lines.append(f"{gpus} GPU, {name}: warm restart {rest:.2f} s on top of imports and CUDA context{bar}")
        else:
            delivery = sum(seconds.get(phase, 0.0) for phase in ("PUSHING", "INSTALLING", "LOADING"))
            lines.append(f"{gpus} GPU, {name}: push+install+load {delivery:.3f} s (bar {DELIVERY_BAR_S})")
    return lines


def _against(known: dict[tuple[int, str], Row]) -> Iterator[str]:
    """A leader-only run uses one GPU, so where it was not run on as many, one with one rank stands in."""

    def find(gpus: int, name: str) -> Row | None:
        return known.get((gpus, name)) or known.get((1, name))

    for (gpus, name), row in known.items():
        if " sharded " not in name:
            continue
        sharded, where = seconds_of(row), f"{gpus} GPU, {name}"
        if (leader := find(gpus, name.replace("sharded", "leader"))) is not None:
            ratio = seconds_of(leader)["TUNING"] / sharded["TUNING"]
            bar = f" (bar {SHARDED_BAR})" if gpus == 4 and name.startswith("fp8") else ""
            yield f"{where}: tunes {ratio:.2f} times faster than leader-only{bar}"
        if (today := find(gpus, name.replace("sharded", "today's way"))) is not None:
            guard = ", the guard included" if sharded.get("GUARDING") else ""
            ratio = today["wall_s"] / row["wall_s"]
            yield f"{where}: the whole run is {ratio:.2f} times faster than today's way{guard}"
