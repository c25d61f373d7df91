"""A table of a cluster's answers: its first column names the node, and is left out where only this machine answers."""

from __future__ import annotations

from rich.console import Console

from ray_warmup.scripts.terminal.console import add_row, table_of


class NodeTable:
    """Rows of one node or of several.

    `nodes` are the names of those that answer, empty for this machine.
    """

    def __init__(self, nodes: list[str], *columns: str, whole: tuple[str, ...] = ()) -> None:
        self._names_nodes = any(nodes)
        if self._names_nodes:
            columns = ("node", *columns)
        self._table = table_of(*columns, whole=("node", *whole))

    def add(self, node: str, *cells: object) -> None:
        """Add a row of one node."""
        if self._names_nodes:
            cells = (node, *cells)
        add_row(self._table, *cells)

    def print(self, console: Console) -> None:
        """Print the table, or nothing without rows."""
        if self._table.row_count:
            console.print(self._table)
