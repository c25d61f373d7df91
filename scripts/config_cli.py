"""`ray-warmup config`: write a config for a real engine from the command line that starts it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import JsonValue

from ray_warmup.configs import ConfigError
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import request_of
from ray_warmup.configs.vllm_command import VllmCommand, read_vllm_command
from ray_warmup.scripts.console import complain
from ray_warmup.scripts.report_file import ReportFile


def config_command(
    from_vllm: Annotated[
        str, typer.Option("--from-vllm", help="The whole command in quotes: 'vllm serve MODEL --option value ...'.")
    ],
    num_nodes: Annotated[int, typer.Option(min=1, help="Nodes that shall be warm.")] = 1,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs per node. Default: those of one replica.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File. Default: standard output.")] = None,
) -> None:
    """Write a config from vLLM's own command line.

    Arguments that a run sets itself are left out and named. Where vLLM is installed its parser checks the others.
    Exit 2 for an argument that is unknown or not covered yet.
    """
    command = read_vllm_command(from_vllm)
    document = document_of(command, num_nodes, ranks_per_node)
    checked = request_of(document)
    assert isinstance(checked, EngineRunConfig), "the document names an engine"
    is_checked = importlib.util.find_spec("vllm") is not None
    if is_checked:
        from ray_warmup.warmup.engines.vllm.argument_check import check_arguments

        check_arguments(checked.engine.args)
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


def document_of(command: VllmCommand, num_nodes: int, ranks_per_node: int | None) -> dict[str, JsonValue]:
    """Return the config as plain values, one replica on each node unless told otherwise."""
    size = command.arguments.get("tensor_parallel_size", 1)
    if not isinstance(size, int) or isinstance(size, bool):
        raise ConfigError(f"--from-vllm: --tensor-parallel-size: {size!r}: must be a whole number")
    cluster: JsonValue = {"address": "auto", "num_nodes": num_nodes, "ranks_per_node": ranks_per_node or size}
    return {"cluster": cluster, "engine": {"kind": "vllm", "args": command.arguments}}


def notes_of(command: VllmCommand, *, is_checked: bool) -> list[str]:
    """Say what of the command is not in the config, and what was not checked."""
    notes = [f"left out {reason}" for reason in command.left_out]
    for name in command.variables:
        notes.append(f"set the environment variable {name} on every node, as it is set for vLLM")
    if not is_checked:
        notes.append(
            "vLLM is not installed here: names of arguments were not checked; `ray-warmup plan` does on a node"
        )
    return notes
