"""`plan`, `path`, `wait` and `status` for a config of a real engine: tables and lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console

from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY, EXIT_TIMEOUT, EXIT_USAGE
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.scripts.terminal.console import add_row, complain, moment, say, table_of, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.views.own_calls import requests_json, show_requests
from ray_warmup.warmup.engines.identity.resolved import Resolved, node_differences
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.node.prediction import Prediction
from ray_warmup.warmup.engines.node.request_status import EngineStanding


def plan_engine_and_show(config: EngineRunConfig, *, as_json: bool) -> int:
    """Predict and print what a run would record, place and prove. Starts no engine.

    Returns 0 if every node could answer, 2 if the engine refuses what the config asks, 1 otherwise.
    """
    from ray_warmup.actors.connection.of_runs import connected
    from ray_warmup.actors.questions.engine_requests import predict

    with connected(config):
        answers, problems = predict(config)
    resolved = {node: answer.resolved for node, answer in answers.items() if answer.resolved is not None}
    problems += list(node_differences(resolved))
    if as_json:
        nodes = {
            node: {**asdict(answer), "requests": requests_json(answer.requests)} for node, answer in answers.items()
        }
        print_document({"nodes": nodes, "problems": problems, "not_covered": sorted(config.engine.rules.not_covered)})
    else:
        _show_plan(wide_console(), config, answers)
    for node, answer in answers.items():
        if answer.error:
            complain(f"{node}: {answer.error}")
    for problem in problems:
        complain(problem)
    if any(answer.is_request for answer in answers.values()):
        return EXIT_USAGE
    has_error = any(answer.error for answer in answers.values())
    if problems or has_error:
        return EXIT_FAILED
    return EXIT_READY


def _show_plan(console: Console, config: EngineRunConfig, answers: Mapping[str, Prediction]) -> None:
    table = table_of("node", "engine", "class", "artifact", whole=("node",))
    for node, answer in answers.items():
        if answer.resolved is not None:
            found = "hit" if answer.hit else "miss"
            add_row(
                table,
                node,
                f"{config.engine.kind} {answer.resolved.engine_version}",
                answer.resolved.key_sha256[:12],
                found,
            )
    if table.row_count:
        console.print(table)
    for node, answer in answers.items():
        if answer.hit:
            carried = ", ".join(f"{kind} {count}" for kind, count in answer.kinds)
            say(console, f"{node}: would place {carried} from {answer.store}")
            if answer.lack:
                say(console, f"{node}: {answer.lack}")
        elif answer.resolved is not None:
            say(console, f"{node}: miss: {answer.reason}")
    _show_own_calls(console, answers.values())
    if not any(answer.hit for answer in answers.values()):
        say(console, f"one start would be recorded with {config.engine.weights} weights, then installed and proven")
        looked = adapter_of(config.engine.kind).looks_in()
        say(console, f"carried of what it fills: {', '.join(looked)}")
    _show_arguments(console, [answer.resolved for answer in answers.values() if answer.resolved is not None])
    say(console, f"not covered, and refused by name: {', '.join(sorted(set(_features(config))))}")


def _show_own_calls(console: Console, answers: Iterable[Prediction]) -> None:
    """Print what the recorded engine asked FlashInfer for, once for each artifact that would be placed."""
    shown: set[str] = set()
    for answer in answers:
        if answer.requests and answer.store not in shown:
            shown.add(answer.store)
            say(console, f"asked of FlashInfer, as recorded in {answer.store}:")
            show_requests(console, answer.requests)


def _show_arguments(console: Console, resolved: Iterable[Resolved]) -> None:
    for answer in resolved:
        say(console, f"enter the class: {', '.join(answer.class_arguments)}")
        if answer.other_arguments:
            say(console, f"change nothing here: {', '.join(answer.other_arguments)}")
        for name, digest in answer.digests:
            say(console, f"  {name}: {digest[:12]}")
        return  # nodes that differ are named as problems


def _features(config: EngineRunConfig) -> Iterable[str]:
    return (what.removesuffix(" is").removesuffix(" are") for what in config.engine.rules.not_covered.values())


def show_engine_paths(config: EngineRunConfig, node: int | None, *, check: bool) -> int:
    """Print the directory of the request's artifact on each selected node. Returns 1 if one is unknown or not ready."""
    from ray_warmup.actors.questions.engine_requests import standings_here

    code = EXIT_READY
    for standing in standings_here(config, node):
        if standing.store:
            typer.echo(Path(standing.store))
        if not standing.store or (check and standing.state != "ready"):
            complain(standing.text)
            code = EXIT_FAILED
    return code


def wait_for_engine(
    config: EngineRunConfig, timeout_s: float, address: str | None, node: int | None, *, accept: str
) -> int:
    """Wait and print why it was in vain."""
    from ray_warmup.actors.questions.engine_requests import wait_ready

    code, standings = wait_ready(config, timeout_s, address, node, accept="verdict" if accept == "verdict" else "table")
    if code == EXIT_TIMEOUT:
        complain(f"not ready after {timeout_s:g} s (--timeout)")
    for standing in standings if code != EXIT_READY else ():
        complain(f"{standing.text}{f' ({standing.store})' if standing.store else ''}")
    return code


def show_standings(console: Console, standings: Iterable[EngineStanding]) -> None:
    """Print one line for each artifact of a real engine on this node."""
    for standing in standings:
        when = "" if standing.at is None else f" at {moment(standing.at)}"
        where = f", {standing.store}" if standing.store else ""
        say(console, f"{standing.state.upper()}{when}: {standing.engine or 'engine'}: {standing.text}{where}")
