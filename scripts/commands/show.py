"""`show`: a tuned file, and what is quarantined beside it, for people or machines."""

from __future__ import annotations

import json
from pathlib import Path

from ray_warmup.scripts.terminal.console import add_row, say, table_of, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES, TunedTable, parse_table
from ray_warmup.warmup.disk.reading import read_named
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.writer_files import Row


def show_table(path: Path, *, as_json: bool) -> int:
    """Print a table's entries, metadata, digest and quarantine.

    Raises a WarmupError for any other file.
    """
    data = read_named(path, MAX_TABLE_BYTES)
    try:
        table = parse_table(data)
    except WarmupError as error:
        raise StoreError(f"{path}: {error}") from error
    quarantine = NodeStore(path.parent).load_quarantine()
    if as_json:
        entries = {key: [entry.runner, entry.tactic] for key, entry in table.entries.items()}
        document = {
            "path": str(path),
            "digest": table.digest,
            "metadata": dict(table.metadata),
            "entries": entries,
            "quarantine": quarantine,
        }
        print_document(document)
        return 0
    _print(path, table, quarantine)
    return 0


def _print(path: Path, table: TunedTable, quarantine: list[Row]) -> None:
    console = wide_console()
    view = table_of("task", "runner", "tactic", title=path)
    for key, entry in table.entries.items():
        add_row(view, key, entry.runner, "default" if entry.tactic == -1 else json.dumps(entry.tactic))
    console.print(view)
    for row in quarantine:
        text = f"quarantined: {row.get('runner')} tactic {row.get('tactic')} of {row.get('op')}; not measured again"
        say(console, text)
    for name, value in table.metadata.items():
        say(console, f"{name}: {value}")
    say(console, f"entries: {len(table.entries)}")
    say(console, f"digest: {table.digest}")
