"""The `ray-warmup` command line: parse arguments, call actors/ and warmup/, print tables.

Commands import heavy packages (Ray, torch, FlashInfer) themselves, so `--help` is quick.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from ray_warmup.actors.connection.closing import leave
from ray_warmup.actors.errors import EXIT_READY, EXIT_TIMEOUT
from ray_warmup.configs import VERSION, WarmupConfig, load_config
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import load_request
from ray_warmup.scripts.commands.cache import app as cache_app
from ray_warmup.scripts.commands.config import config_command
from ray_warmup.scripts.commands.doctor import doctor
from ray_warmup.scripts.commands.engine import app as engine_app
from ray_warmup.scripts.commands.key import app as key_app
from ray_warmup.scripts.commands.registry import app as registry_app
from ray_warmup.scripts.commands.registry import sync_command
from ray_warmup.scripts.commands.report import app as report_app
from ray_warmup.scripts.commands.runs import cancel, history, logs
from ray_warmup.scripts.terminal.console import complain, log_to_stderr
from ray_warmup.scripts.terminal.endings import GuardedGroup
from ray_warmup.scripts.terminal.shell_command import ShellCommand

START, RUNS = "Start here", "A run, now and later"
ENGINES, CLUSTER = "On a node, for its engines", "Caches and the cluster"
ORDER = (
    *("config", "plan", "run"),
    *("status", "logs", "cancel", "history", "report"),
    *("wait", "env", "path", "show", "engine"),
    *("doctor", "cache", "sync", "registry", "key"),
)
"""Commands in the order of `--help`."""


class OrderedGroup(GuardedGroup):
    """All commands, in the order in which a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands of ORDER, then any other."""
        names: list[str] = super().list_commands(ctx)
        others = sorted(set(names) - set(ORDER))
        return [*ORDER, *others]


app = typer.Typer(
    name="ray-warmup",
    cls=OrderedGroup,
    help="Make the kernels that an LLM engine compiles and tunes at its start once per Ray cluster, and give them to "
    "every node, so that engines start warm.\n\nWrite a config (`config`, or a recipe), look at `plan`, `run` it once, "
    "then start each engine after `wait`. Without a GPU, `ray-warmup run` alone tries it on two simulated nodes.",
    epilog="Exit codes: 0 ready, 1 failed, 2 wrong configuration or usage, 3 another run of the same work is active, "
    "4 ready, but not on every node's disk (cache.require_disk: false), 124 `wait` reached its timeout, 143 ended by "
    "SIGTERM.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

app.add_typer(cache_app, name="cache", rich_help_panel=CLUSTER)
app.add_typer(engine_app, name="engine", rich_help_panel=ENGINES)
app.add_typer(key_app, name="key", rich_help_panel=CLUSTER)
app.add_typer(registry_app, name="registry", rich_help_panel=CLUSTER)
app.add_typer(report_app, name="report", rich_help_panel=RUNS)
app.command("sync", rich_help_panel=CLUSTER)(sync_command)
app.command(rich_help_panel=CLUSTER)(doctor)
app.command(rich_help_panel=RUNS)(cancel)
app.command(rich_help_panel=RUNS)(logs)
app.command(rich_help_panel=RUNS)(history)
app.command("config", rich_help_panel=START)(config_command)

Config = Annotated[str, typer.Option("--config", "-c", help="YAML file, or the name of a recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one field: section.field=value. Repeatable.")
]
Node = Annotated[int | None, typer.Option("--node", min=0, help="Number of a simulated node.")]
Rank = Annotated[int | None, typer.Option(help="Rank whose class is meant. Default: this node's own ranks.")]
Check = Annotated[bool, typer.Option("--check", help="Exit 1 unless the table exists and may be served.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command(rich_help_panel=START)
def run(
    config: Config = "cpu_two_nodes",
    override: Overrides = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the report to this file, even if the run fails: a page (*.html), or JSON."),
    ] = None,
    retune: Annotated[
        bool, typer.Option("--retune", help="Measure, or record, again even if a result is found.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Exit 3 instead of waiting for another run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and the last line only.")] = False,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option("--log-format", help="Lines for people, or one JSON document per event."),
    ] = "text",
    wait_for_nodes: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds to wait for nodes that have not joined yet (timeouts.nodes)."),
    ] = None,
) -> None:
    """Warm up the cluster. Exit code 0 only if every rank is ready."""
    from ray_warmup.scripts.commands.run_options import RunOptions

    options = RunOptions(report_path=report, retune=retune, wait=not no_wait, quiet=quiet, log_format=log_format)
    override = list(override or [])
    if wait_for_nodes is not None:
        override.append(f"timeouts.nodes={wait_for_nodes}")
    request = load_request(config, override)
    if isinstance(request, EngineRunConfig):
        from ray_warmup.scripts.commands.engine_run import run_engine_and_show

        _exit(run_engine_and_show(request, options))
    settings = _config(config, override)

    def work() -> int:
        from ray_warmup.scripts.commands.run import run_and_show

        return run_and_show(settings, options)

    _exit(work())


@app.command(rich_help_panel=START)
def plan(config: Config = "cpu_two_nodes", override: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do on which nodes, and whether its result is there already. Starts nothing.

    For a real engine: what would be recorded on which nodes, which arguments enter the class, why a found artifact fits
    or not, and what is not covered.
    """
    request = load_request(config, override or [])
    if isinstance(request, EngineRunConfig):
        from ray_warmup.scripts.commands.engine_answers import plan_engine_and_show

        _exit(plan_engine_and_show(request, as_json=as_json))
    settings = _config(config, override)

    def work() -> int:
        from ray_warmup.scripts.commands.plan import plan_and_show

        return plan_and_show(settings, as_json=as_json)

    _exit(work())


@app.command(rich_help_panel=ENGINES)
def show(table: Annotated[Path, typer.Argument(help="An autotune_configs.json.")], as_json: AsJson = False) -> None:
    """Print a table's entries, metadata, digest and quarantined tactics."""

    def work() -> int:
        from ray_warmup.scripts.commands.show import show_table

        return show_table(table, as_json=as_json)

    _exit(work())


@app.command(rich_help_panel=ENGINES)
def path(
    config: Config = "cpu_two_nodes",
    override: Overrides = None,
    rank: Rank = None,
    node: Node = None,
    check: Check = False,
) -> None:
    """Print the path of a config's table on this node.

    The table is that of the node's own ranks if a run recorded them, or else that of rank 0. --rank selects another.
    For simulated nodes, print one line per node, or that of --node. For a real engine: the artifact's directory.
    """
    request = load_request(config, override or [])
    if isinstance(request, EngineRunConfig):
        from ray_warmup.scripts.commands.engine_answers import show_engine_paths

        _exit(show_engine_paths(request, node, check=check))
    settings = _config(config, override)

    def work() -> int:
        from ray_warmup.scripts.commands.env import show_paths

        return show_paths(settings, rank, node, check=check)

    _exit(work())


@app.command(rich_help_panel=RUNS)
def status(
    config: Annotated[str | None, typer.Option("--config", "-c", help="Only this config's table on this node.")] = None,
    override: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster. Default: $RAY_ADDRESS or a local one.")
    ] = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second while a run is live.")] = False,
) -> None:
    """Show the progress of live runs per rank, or the outcome of the last runs on this node.

    Through Ray Client, ask every node. Also show compilations in serving processes on this node since they were ready
    (`ray_warmup.monitor`).
    """
    request = None if config is None else load_request(config, override or [])
    settings = request
    if config is not None and not isinstance(request, EngineRunConfig):
        settings = _config(config, override)

    def work() -> int:
        from ray_warmup.scripts.commands.status import show_status

        return show_status(settings, address, as_json=as_json, watch=watch)

    _exit(work())


@app.command(rich_help_panel=ENGINES)
def wait(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait. inf: no limit.")] = 3600.0,
    config: Config = "cpu_two_nodes",
    override: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster. Default: $RAY_ADDRESS or a local one.")
    ] = None,
    node: Node = None,
    rank: Rank = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Wait for every class, not only this node's.")
    ] = False,
    accept: Annotated[
        Literal["table", "verdict"],
        typer.Option(help="After a failed run, accept a whole and guarded table, or only the verdict of a ready run."),
    ] = "table",
) -> None:
    """Wait until engines may start on this node. Exit 0 when they may, 1 if the run failed, 124 after the timeout.

    They may when the tables of the node's own ranks are there. For simulated nodes, wait for all of them, or for
    --node. Through Ray Client (--address ray://...), wait for the node of this command, or from elsewhere for all nodes
    of the newest run. For a real engine, wait until the artifact of the request is proven here, or was imported.
    """
    request = load_request(config, override or [])
    if isinstance(request, EngineRunConfig):
        from ray_warmup.scripts.commands.engine_answers import wait_for_engine

        _exit(wait_for_engine(request, timeout, address, node, accept=accept))
    settings = _config(config, override)

    def work() -> int:
        from ray_warmup.actors.questions.waiting import wait_ready, why_not_ready
        from ray_warmup.warmup.rank.forecast import check_rank
        from ray_warmup.warmup.rank.readiness import ReadinessQuestion

        check_rank(settings, rank)
        question = ReadinessQuestion(settings, rank, all_classes, accept)
        code = wait_ready(question, timeout, address, node)
        if code == EXIT_TIMEOUT:
            complain(f"not ready after {timeout:g} s (--timeout)")
        for line in why_not_ready(question, address, node) if code != EXIT_READY else []:
            complain(line)
        return code

    _exit(work())


@app.command("env", cls=ShellCommand, rich_help_panel=ENGINES)
def environment(
    config: Config = "cpu_two_nodes",
    override: Overrides = None,
    rank: Rank = None,
    node: Node = None,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Print the variables by which an engine's process on this node finds the shipped kernels.

    Where there is an error, a shell that evaluates the output is given `false`.
    """
    from ray_warmup.scripts.commands.env import show_environment

    _exit(show_environment(_config(config, override), rank, node, as_json=as_json, check=check))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log this command's steps to stderr. Ranks log into Ray's files.")
    ] = False,
) -> None:
    """Set up logging and print the version if asked."""
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    if version:
        typer.echo(VERSION)
        raise typer.Exit(EXIT_READY)


def _config(name: str, overrides: list[str] | None) -> WarmupConfig:
    """Load a config as a run does, with its model's dimensions. Raises ConfigError."""
    from ray_warmup.warmup.rank.rank_workloads import checked

    return checked(load_config(name, overrides or []))


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the console command."""
    try:
        app()
    except SystemExit as ending:
        if isinstance(ending.code, int):
            leave(ending.code)
        raise


if __name__ == "__main__":
    main()
