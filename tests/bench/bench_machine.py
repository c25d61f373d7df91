"""The pure machine at size, in one process without Ray: CPU time, longest step, memory, what moves on a hit.

    python -m tests.bench.bench_machine --out tests/bench/results/machine.json [--before OLD.json] [--rows 4000,10000]

Each row of the table is a process of its own. Bars, for 4,000 ranks on 500 nodes with 10,000 tasks: at most 15 s in
all, 50 ms in one step, 200 MiB; a hit of 10,000 tasks on 128 nodes moves at most 50 MiB; one failure on 4,000 ranks
takes one paragraph. Exit code 1 otherwise. `--before` adds the columns of an earlier result of the same machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.machine_figures import Figures, measure_fold, measure_hit, measure_run, measure_warnings

ROWS = (
    (10, 84),
    (100, 84),
    (1000, 84),
    (10, 10_000),
    (100, 10_000),
    (1000, 10_000),
    (2000, 1000),
    (4000, 10_000),
)
"""Ranks and tasks; eight ranks share a node."""
LARGEST = (4000, 10_000)
ROW_TIMEOUT_S = 1200
MAX_SECONDS, MAX_STEP_MS, MAX_RSS_MIB, MAX_HIT_MIB = 15.0, 50.0, 200.0, 50.0


def main() -> int:
    """Measure every row, write and print the table, say which bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=";".join(f"{ranks},{tasks}" for ranks, tasks in ROWS))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--before", type=Path, default=None)
    parser.add_argument("--one", default=None, help="measure one row in this process and print it as JSON")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one)))
        return 0
    names = [*options.rows.split(";"), "hit", "fold", "warnings"]
    rows = {name: _in_a_process(name) for name in names}
    before = json.loads(options.before.read_text())["rows"] if options.before else {}
    result = {"machine": machine(), "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "rows": rows}
    text = table(rows, before)
    print(text)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    missed = missed_bars(rows)
    for bar in missed:
        print(f"missed: {bar}")
    return 1 if missed else 0


def measure(name: str) -> dict[str, Any]:
    """One row, by its name."""
    match name:
        case "hit":
            return measure_hit(nodes=128, tasks=10_000)
        case "fold":
            return measure_fold(ranks=4000)
        case "warnings":
            return measure_warnings(count=10_000)
    ranks, tasks = map(int, name.split(","))
    return measure_run(ranks, tasks).to_json()


def machine() -> str:
    """On what it was measured."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":?")
    return f"Python {platform.python_version()}, {cpu.split(':')[1].strip()}, one process at a time"


def table(rows: dict[str, Any], before: dict[str, Any]) -> str:
    """Markdown; where there is an earlier result, its figures stand before the new ones."""
    lines = [
        "| ranks / nodes | tasks | events | s in the machine | longest step, ms | tick, ms | RSS, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "," in name:
            now, old = Figures(**row), Figures(**before[name]) if name in before else None
            lines.append(_line(now, old))
    lines.append("")
    for name in ("hit", "fold", "warnings"):
        if name in rows:
            lines += [f"- {name}: {_spoken(rows[name])}" + (f"; before: {_spoken(before[name])}" if before else "")]
    return "\n".join(lines)


def _line(now: Figures, old: Figures | None) -> str:
    names = ("seconds", "step_ms", "tick_ms", "rss_mib")
    cells = [_cell(getattr(now, name), None if old is None else getattr(old, name)) for name in names]
    return f"| {now.ranks:,} / {now.nodes} | {now.tasks:,} | {now.events:,} | " + " | ".join(cells) + " |"


def _cell(now: float, old: float | None) -> str:
    return f"{now:.4g}" if old is None else f"{old:.4g} -> {now:.4g}"


def _spoken(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, int | float))


def missed_bars(rows: dict[str, Any]) -> list[str]:
    """Which bars do not hold."""
    missed = []
    largest = rows.get("{},{}".format(*LARGEST))
    if largest is not None:
        bars = (("seconds", MAX_SECONDS), ("step_ms", MAX_STEP_MS), ("rss_mib", MAX_RSS_MIB))
        missed += [f"{name} {largest[name]:.4g} of {bar:g}" for name, bar in bars if largest[name] > bar]
    if rows["hit"]["mib"] > MAX_HIT_MIB:
        missed.append(f"a hit moves {rows['hit']['mib']:.4g} of {MAX_HIT_MIB:g} MiB")
    if rows["fold"]["paragraphs"] > 1:
        missed.append(f"one failure of all ranks takes {rows['fold']['paragraphs']} paragraphs")
    return missed


def _in_a_process(name: str) -> dict[str, Any]:
    """So that one row's memory is not another's."""
    command = [sys.executable, "-m", "tests.bench.bench_machine", "--one", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=ROW_TIMEOUT_S, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {_spoken(row)}", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
