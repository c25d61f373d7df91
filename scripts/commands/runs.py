"""`ray-warmup cancel`, `logs` and `history`: end a live run, read what its processes logged, list earlier runs.

Exit codes: 0 done, 1 there is no such run, or something did not answer, 2 wrong usage.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_warmup.actors.errors import EXIT_FAILED
from ray_warmup.configs.loader import load_request
from ray_warmup.configs.schema import CacheSection
from ray_warmup.scripts.commands.registry import on_cluster
from ray_warmup.scripts.terminal.console import add_row, complain, first_line, moment, say, table_of, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.run_history import KEPT, KeptRun, kept_runs

if TYPE_CHECKING:
    from ray_warmup.actors.processes.logs import ProcessLog

CANCEL_S = 60.0
TAIL_BYTES = 20_000

Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or its beginning (`ray-warmup status`).")]
Address = Annotated[str | None, typer.Option(help="Ray address. Default: $RAY_ADDRESS, else this machine's cluster.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def cancel(
    run: Run,
    address: Address = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until the run must have ended.")] = CANCEL_S,
    force: Annotated[bool, typer.Option("--force", help="Kill a run that has not ended by then.")] = False,
) -> None:
    """End a live run, from any machine that reaches its cluster.

    It ends as by Ctrl-C: engines, ranks and GPUs are given back, finished tasks are kept, and the command that started
    the run exits 1 with who cancelled it.
    """
    from ray_warmup.actors.driver.cancelling import cancel_run

    with on_cluster(address):
        done = cancel_run(run, timeout, by_force=force)
    if not done.has_ended:
        advice = "wait, or give --force to kill it"
        if force:
            advice = "look at `ray-warmup status`"
        complain(f"run {done.run_id} was told to end, and has not after {done.seconds:.0f} s (--timeout); {advice}")
        raise typer.Exit(EXIT_FAILED)
    how = "has ended"
    if done.was_killed:
        how = "was killed"
    say(wide_console(), f"run {done.run_id} {how} after {done.seconds:.1f} s; finished tasks are kept")


def logs(
    run: Run,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank. Default: coordinator and all ranks.")] = None,
    tail: Annotated[int, typer.Option(min=1, help="Bytes of the end of each log.")] = TAIL_BYTES,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Print the end of what the processes of a run logged, also after it has ended.

    The files are those of Ray's session on each node, which end with the cluster. Exit 1 if there is none.
    """
    from ray_warmup.actors.processes.logs import logs_of

    with on_cluster(address):
        found, problems = logs_of(run, rank, tail)
    if as_json:
        print_document({"logs": list(map(asdict, found)), "problems": problems})
    else:
        show_logs(found)
    for problem in problems:
        complain(f"could not be asked: {problem}")
    if not found:
        who = "no process"
        if rank is not None:
            who = f"no rank {rank}"
        complain(f"{who} of a run {run} left a log in Ray's sessions of this cluster's nodes")
    if problems or not found:
        raise typer.Exit(EXIT_FAILED)


def show_logs(logs: list[ProcessLog]) -> None:
    """Print each log below its title."""
    console = wide_console()
    for log in logs:
        say(console, f"==> {log.title} <==", style="bold")
        say(console, as_seen(log.text).rstrip("\n") or "(nothing)", lines=True)


def as_seen(text: str) -> str:
    """Return a log as a terminal would show it: of a progress bar, which overwrites its line, the last state."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def history(
    config: Annotated[str | None, typer.Option("--config", "-c", help="Config whose cache root is meant.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="section.field=value; may be repeated.")] = None,
    root: Annotated[str | None, typer.Option(help="Cache root, instead of the config's or this node's own.")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, max=KEPT, help="Number of runs.")] = 10,
    cluster: Annotated[bool, typer.Option("--cluster", help="Of every node, for example where jobs ran.")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List the last runs that were started on this machine: outcome, seconds, classes.

    `ray-warmup report show RUN` prints one of them. The last 50 are kept.
    """
    cache = CacheSection(root=root)
    if config is not None and root is None:
        cache = load_request(config, override or []).cache
    problems: list[str] = []
    if cluster or address is not None:
        found, problems = _runs_of_cluster(cache, address)
    else:
        found = [("", kept) for kept in kept_runs(resolve_paths(cache).root, problems)]
    found = found[:last]
    if as_json:
        rows = [{**asdict(kept.run), "file": str(kept.path), "node_id": node_id} for node_id, kept in found]
        print_document({"runs": rows, "problems": problems})
    elif found:
        show_history(found)
    else:
        say(wide_console(), f"no run was started here with the cache root {resolve_paths(cache).root}")
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(EXIT_FAILED)


def _runs_of_cluster(cache: CacheSection, address: str | None) -> tuple[list[tuple[str, KeptRun]], list[str]]:
    from ray_warmup.actors.questions.run_records import runs_of_cluster

    with on_cluster(address):
        found, problems = runs_of_cluster(cache)
    return [(run.node_id, run.kept) for run in found], problems


def show_history(found: list[tuple[str, KeptRun]]) -> None:
    """Print one row per run, and below the table why those failed that did.

    `found` has the id of the node that keeps a run, empty for this one.
    """
    console = wide_console()
    columns = ["begun", "run", "outcome", "s", "model", "ranks", "nodes", "classes"]
    is_of_cluster = found[0][0] != ""
    if is_of_cluster:
        columns.append("kept on")
    table = table_of(*columns, whole=("outcome", "s"))
    for node_id, kept in found:
        run = kept.run
        outcome = "READY"
        if not run.ready:
            outcome = f"FAILED ({run.exit_code})"
        classes = " ".join(key[:12] for key in run.classes)
        cells = (moment(run.began_at), run.run_id or "-", outcome, f"{run.seconds:.1f}", Path(run.model).name)
        add_row(table, *cells, run.ranks, run.nodes, classes, *(node_id[:8],) * is_of_cluster)
    console.print(table)
    for _, kept in found:
        if kept.run.error is not None:
            name = kept.run.run_id or moment(kept.run.began_at)
            say(console, f"{name}: {first_line(kept.run.error)}")
