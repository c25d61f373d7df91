"""Show live runs, or the outcome of the last runs on this node, and compilations in serving processes here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from rich.console import Console

from ray_warmup.actors.connection.of_questions import attached, is_client
from ray_warmup.actors.driver.status import live_runs, serving
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.questions.verdicts import FoundVerdict, unreadable, verdicts, verdicts_of_cluster
from ray_warmup.actors.run.status import RunStatus
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import Request
from ray_warmup.configs.schema import CacheSection
from ray_warmup.scripts.commands.engine_answers import show_standings
from ray_warmup.scripts.commands.status_watch import watch as watch_runs
from ray_warmup.scripts.terminal.console import complain, first_line, moment, say, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.views.run_screen import run_screen
from ray_warmup.warmup.engines.node.request_status import EngineStanding, all_standings, standing_of
from ray_warmup.warmup.monitor.serving_monitor import ServingProcess
from ray_warmup.warmup.store.node_paths import environments_here

MORE_LINES = 10
"""Of a run's screen besides ranks and classes."""
_LIFE = {
    True: "serves",
    False: "has ended",
    None: "is in a container that cannot be looked into, last heard of at {heard}",
}


@dataclass(slots=True)
class Seen:
    """Answers that were found, and problems with those that were not."""

    live: list[RunStatus] = field(default_factory=list)
    ended: list[FoundVerdict] = field(default_factory=list)
    serving: list[ServingProcess] = field(default_factory=list)
    engines: list[EngineStanding] = field(default_factory=list)
    """Artifacts of a real engine on this node."""
    problems: list[str] = field(default_factory=list)


def show_status(config: Request | None, address: str | None, *, as_json: bool, watch: bool) -> int:
    """Print the status once, or until no run is live.

    Returns 1 if a source did not answer, which differs from having nothing to report.
    """
    console, seen = wide_console(), Seen()
    tables = None if isinstance(config, EngineRunConfig) else config
    is_of_tables = not isinstance(config, EngineRunConfig)
    try:
        with attached(address) as connected:
            if connected:
                _ask_cluster(console, seen, tables, address, as_json=as_json, watch=watch)
            elif watch:
                seen.problems.append("no cluster runs on this machine, so --watch has nothing to watch: give --address")
    except ClusterError as error:
        seen.problems.append(str(error))
    if not is_client(address) and not seen.live and is_of_tables:
        seen.ended = verdicts(tables)
        seen.problems += unreadable(tables)
    if not is_client(address):
        seen.engines = _engines(config)
    seen.serving = serving(tables)
    if as_json:
        print_document(asdict(seen) | {"ended": [found.to_json() for found in seen.ended]})
    else:
        _print_all(console, seen, "any" if is_client(address) else "this")
    for problem in seen.problems:
        complain(f"could not be asked: {problem}")
    return 1 if seen.problems else 0


def _engines(config: Request | None) -> list[EngineStanding]:
    """Return how a request of a real engine stands here, or without a config every recorded artifact."""
    if isinstance(config, EngineRunConfig):
        return [standing_of(config, environment) for environment in environments_here(config)]
    return [] if config is not None else list(all_standings(CacheSection()))


def _ask_cluster(
    console: Console, seen: Seen, config: WarmupConfig | None, address: str | None, *, as_json: bool, watch: bool
) -> None:
    """Collect live runs.

    Through Ray Client and without a live run, collect the last verdicts of the cluster's nodes.
    """
    if watch:
        watch_runs(console, as_json=as_json)
    seen.live = live_runs(seen.problems)
    if is_client(address) and not seen.live:
        seen.ended, problems = verdicts_of_cluster(config)
        seen.problems += problems


def _print_all(console: Console, seen: Seen, where: str) -> None:
    _print_runs(console, seen.live, as_json=False)
    for verdict in seen.ended:
        _print_verdict(console, verdict)
    show_standings(console, seen.engines)
    for process in seen.serving:
        _print_process(console, process)
    if not seen.live and not seen.ended and not seen.engines and not seen.problems:
        say(console, f"no run is active, and none has ended on {where} node")


def _print_runs(console: Console, runs: list[RunStatus], as_json: bool) -> None:
    if as_json:
        for run in runs:
            print_document(asdict(run), indent=None)
        return
    for run in runs:
        # Every rank: what does not fit scrolls.
        console.print(run_screen(run, console.width, len(run.ranks) + len(run.classes) + MORE_LINES))


def _print_verdict(console: Console, found: FoundVerdict) -> None:
    verdict, state = found.verdict, found.verdict.run_state.upper()
    when = "since" if state == "RUNNING" else "at"
    where = f"node {found.node_id[:8]}, " if found.node_id else ""
    say(console, f"{state} {when} {moment(verdict.ended_at)}: run {verdict.run_id}, {where}{found.directory}")
    if verdict.error:
        say(console, f"  {first_line(verdict.error)}")


def _print_process(console: Console, process: ServingProcess) -> None:
    """One monitored process, and the first of what it compiled or loaded after ready."""
    counts = f"{sum(process.compiled.values())} compiled, {sum(process.loaded.values())} loaded from disk"
    state = _LIFE[process.alive].format(heard=moment(process.updated_at))
    since = moment(process.started_at)
    say(console, f"{process.name} (pid {process.pid}) {state}: {counts} since {since}")
    for event in process.events:
        say(console, f"  {event}")
