"""`status`: live runs, else how the last ones ended here; and what serving processes here have compiled."""

from __future__ import annotations

import json
import time
from typing import Any

import typer
from rich.console import Console

from ray_warmup.actors.status import attached, is_client, live_runs, serving
from ray_warmup.actors.verdicts import verdicts, verdicts_of_cluster
from ray_warmup.configs import WarmupConfig
from ray_warmup.scripts.terminal import add_row, first_line, moment, say, table_of, wide_console

WATCH_S = 1.0


def show_status(config: WarmupConfig | None, address: str | None, *, as_json: bool, watch: bool) -> int:
    """Print once, or until no run is live; 0 when anything could be said."""
    console = wide_console()
    with attached(address) as connected:
        runs = live_runs() if connected else []
        while watch and runs:
            _print_runs(console, runs, as_json)
            time.sleep(WATCH_S)
            runs = live_runs()
        ended = verdicts_of_cluster(config) if connected and is_client(address) and not runs else []
    if not is_client(address) and not runs:
        ended = verdicts(config)
    processes = serving(config)
    if as_json:
        typer.echo(json.dumps({"live": runs, "ended": ended, "serving": processes}, indent=2))
        return 0
    _print_runs(console, runs, as_json=False)
    for verdict in ended:
        _print_verdict(console, verdict)
    for process in processes:
        _print_process(console, process)
    if not runs and not ended:
        say(console, f"no run is active, and none has ended on {'any' if is_client(address) else 'this'} node")
    return 0


def _print_runs(console: Console, runs: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for run in runs:
            typer.echo(json.dumps(run))
        return
    for run in runs:
        table = table_of(
            *("rank", "node", "state", "doing", "task", "for s", "heard s ago"),
            title=f"run {run['run_id']}: {run['phase']} for {run['elapsed_s']:.1f} s",
        )
        for rank in run["ranks"]:
            heard = "never" if rank["heard_s"] is None else f"{rank['heard_s']:.1f}"
            cells = (rank["rank"], rank["node_id"][:8], rank["state"], rank["doing"], rank["task"])
            add_row(table, *cells, f"{rank['for_s']:.1f}", heard)
        console.print(table)


def _print_verdict(console: Console, verdict: dict[str, Any]) -> None:
    state = "READY" if verdict["ready"] else "FAILED"
    where = f"node {verdict['node_id'][:8]}, " if "node_id" in verdict else ""
    say(console, f"{state} at {moment(verdict['ended_at'])}: run {verdict['run_id']}, {where}{verdict['directory']}")
    if verdict.get("error"):
        say(console, f"  {first_line(verdict['error'])}")


def _print_process(console: Console, process: dict[str, Any]) -> None:
    """One monitored process, and the first of what it compiled or loaded after ready."""
    counts = f"{sum(process['compiled'].values())} compiled, {sum(process['loaded'].values())} loaded from disk"
    state = "serves" if process["alive"] else "has ended"
    since = moment(process["started_at"])
    say(console, f"{process['name']} (pid {process['pid']}) {state}: {counts} since {since}")
    for event in process["events"]:
        say(console, f"  {event}")
