"""`show`: a tuned file for people or machines."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.table import Table

from scripts.terminal import wide_console
from warmup.errors import StoreError
from warmup.table import parse_table


def show_table(path: Path, *, as_json: bool) -> int:
    """Print entries, metadata and digest; raises a WarmupError for anything that is not a table."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    table = parse_table(data)
    if as_json:
        entries = {key: [entry.runner, entry.tactic] for key, entry in table.entries.items()}
        document = {"path": str(path), "digest": table.digest, "metadata": dict(table.metadata), "entries": entries}
        typer.echo(json.dumps(document, indent=2))
        return 0
    console = wide_console()
    view = Table(title=str(path))
    view.add_column("task", overflow="fold")
    view.add_column("runner")
    view.add_column("tactic")
    for key, entry in table.entries.items():
        view.add_row(key, entry.runner, "default" if entry.tactic == -1 else json.dumps(entry.tactic))
    console.print(view)
    for name, value in table.metadata.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    console.print(f"entries: {len(table.entries)}\ndigest: {table.digest}", highlight=False, soft_wrap=True)
    return 0
