"""`ray-warmup config`: write a config for a real engine from the command line that starts it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import JsonValue

from ray_warmup.configs import ConfigError
from ray_warmup.configs.engine_command import SGLANG_STARTER, VLLM_STARTER, EngineCommand, Starter, read_command
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import request_of
from ray_warmup.scripts.reports.report_file import ReportFile
from ray_warmup.scripts.terminal.console import complain


def config_command(
    from_vllm: Annotated[
        str | None,
        typer.Option("--from-vllm", help="The whole command in quotes: 'vllm serve MODEL --option value ...'."),
    ] = None,
    from_sglang: Annotated[
        str | None,
        typer.Option("--from-sglang", help="The same: 'python -m sglang.launch_server --model-path MODEL ...'."),
    ] = None,
    num_nodes: Annotated[int, typer.Option(min=1, help="Nodes that shall be warm.")] = 1,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs per node. Default: those of one replica.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File. Default: standard output.")] = None,
) -> None:
    """Write a config from the engine's own command line.

    Arguments that a run sets itself are left out and named. Where the engine is installed its parser checks the others.
    Exit 2 for an argument that is unknown or not covered yet.
    """
    command = _the_one(((VLLM_STARTER, from_vllm), (SGLANG_STARTER, from_sglang)))
    document = document_of(command, num_nodes, ranks_per_node)
    checked = request_of(document)
    assert isinstance(checked, EngineRunConfig), "the document names an engine"
    starter = command.starter
    is_checked = importlib.util.find_spec(starter.kind) is not None
    if is_checked:
        from ray_warmup.warmup.engines.adapter.argument_check import check_arguments

        check_arguments(starter.kind, starter.title, checked.engine.args)
    notes = notes_of(command, is_checked=is_checked)
    text = "".join(f"# {note}\n" for note in notes) + yaml.safe_dump(document, sort_keys=False)
    for note in notes:
        complain(note)
    if output is None:
        typer.echo(text, nl=False)
        return
    with ReportFile(output, "--output") as file:
        file.write(text.encode())
    complain(f"wrote {output}; next: ray-warmup plan --config {output}")


def _the_one(given: Sequence[tuple[Starter, str | None]]) -> EngineCommand:
    """Read the one command line that was given. Raises ConfigError for none, or several."""
    lines = [(starter, line) for starter, line in given if line is not None]
    if len(lines) != 1:
        options = " and ".join(starter.option for starter, _ in given)
        raise ConfigError(f"config: give exactly one of {options}, with the whole command in quotes")
    starter, line = lines[0]
    return read_command(line, starter)


def document_of(command: EngineCommand, num_nodes: int, ranks_per_node: int | None) -> dict[str, JsonValue]:
    """Return the config as plain values, one replica on each node unless told otherwise."""
    starter = command.starter
    size = command.arguments.get(starter.ranks, 1)
    if not isinstance(size, int) or isinstance(size, bool):
        option = starter.ranks.replace("_", "-")
        raise ConfigError(f"{starter.option}: --{option}: {size!r}: must be a whole number")
    cluster: JsonValue = {"address": "auto", "num_nodes": num_nodes, "ranks_per_node": ranks_per_node or size}
    return {"cluster": cluster, "engine": {"kind": starter.kind, "args": command.arguments}}


def notes_of(command: EngineCommand, *, is_checked: bool) -> list[str]:
    """Say what of the command is not in the config, and what was not checked."""
    notes = [f"left out {reason}" for reason in command.left_out]
    for name in command.variables:
        notes.append(f"set the environment variable {name} on every node, as it is set for {command.starter.title}")
    if not is_checked:
        said = "is not installed here: names of arguments were not checked; `ray-warmup plan` does on a node"
        notes.append(f"{command.starter.title} {said}")
    return notes
