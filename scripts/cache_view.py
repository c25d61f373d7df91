"""Answers of `ray-warmup cache` for people: one small table for each command."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.terminal import wide_console


def show_answer(answer: dict[str, Any], title: str = "") -> None:
    """Print the result of one command; `title` names the node where there are several."""
    console = wide_console()
    if title:
        console.print(title, style="bold", highlight=False)
    _VIEWS[answer["command"]](console, answer["result"])


def size(count: float) -> str:
    """Bytes for people: `1.2 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _ls(console: Console, rows: list[dict[str, Any]]) -> None:
    table = _table("key", "made for", "generations", "entries", "made", "on disk", "state")
    for row in rows:
        generations = " ".join(f"{n}*" if n == row["current"] else str(n) for n in row["generations"][-5:])
        made = "" if row["created_at"] is None else f"{datetime.fromtimestamp(row['created_at']):%Y-%m-%d %H:%M}"
        entries = "none" if row["entries"] is None else f"{row['entries']} {row['guard']}"
        state = row["problem"] or ("in use" if row["is_held"] else "ok")
        where = f"{row['flashinfer_version']} {row['arch']}".strip()
        table.add_row(row["key_sha256"][:12], where, generations, entries, made, size(row["disk_bytes"]), state)
    console.print(table if rows else "nothing is stored here")
    for row in rows:
        carries = ", ".join(f"{kind} {size(count)}" for kind, count in row["kinds"])
        _line(console, f"{row['key_sha256'][:12]} in {row['path']}{': ' if carries else ''}{carries}")


def _verify(console: Console, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        counted = f"{row['generations']} generations, {row['files']} files, {size(row['bytes'])}"
        _line(console, f"{row['path']}: {counted}: {'damaged' if row['problems'] else 'whole'}")
        for problem in row["problems"]:
            _line(console, f"  {problem}")
    if not rows:
        console.print("nothing is stored here")


def _retime(console: Console, row: dict[str, Any]) -> None:
    table = _table("task", "runner", "tactic", "then", "now", "today", "")
    for entry in row["rows"]:
        then = "" if entry["then"] is None else f"{entry['then']:.3f}"
        names = (entry["task_id"], entry["runner"], str(entry["tactic"]))
        table.add_row(*names, then, f"{entry['now']:.3f}", entry["decision"], "drifted" if entry["drifted"] else "")
    console.print(table)
    _line(console, f"{len(row['rows'])} of {row['entries']} entries timed, {row['drifted']} drifted: {row['path']}")
    console.print("then and now are the default's time over the entry's; retune where it drifted")


def _explain(console: Console, row: dict[str, Any]) -> None:
    _line(console, f"{row['path']}: {'a hit' if row['hit'] else 'a miss: ' + row['reason']}")
    for path, difference in row["others"] if not row["hit"] else []:
        _line(console, f"  {path} differs in {difference}")


def _diff(console: Console, row: dict[str, Any]) -> None:
    table = _table("task", f"generation {row['old']}", f"generation {row['new']}", "before", "after")
    for change in row["changed"]:
        table.add_row(change["task"], change["old"], change["new"], _time(change["old_s"]), _time(change["new_s"]))
    if row["changed"]:
        console.print(table)
    for sign, tasks in (("+", row["added"]), ("-", row["removed"])):
        for task in tasks:
            _line(console, f"{sign} {task}")
    for blob in row["blobs"]:
        _line(console, blob)
    _line(console, f"{row['same']} entries are the same, {len(row['changed'])} differ")


def _export(console: Console, row: dict[str, Any]) -> None:
    _line(console, f"{row['file']}: {size(row['bytes'])} from {row['store']}")


def _import(console: Console, row: dict[str, Any]) -> None:
    _line(console, f"{row['path']}: generation {row['generation']}, {size(row['bytes'])} in {len(row['files'])} files")


def _prune(console: Console, row: dict[str, Any]) -> None:
    table = _table("what", "path", "size", "why")
    for removal in row["plan"]:
        what = removal["what"] if removal["generation"] is None else f"generation {removal['generation']}"
        table.add_row(what, removal["path"], size(removal["bytes"]), removal["reason"])
    console.print(table if row["plan"] else "the rules name nothing")
    done = row["done"]
    if done is None:
        console.print("dry run: nothing was removed; --yes removes it")
        return
    _line(console, f"removed {len(done['removed'])} things, {size(done['freed_bytes'])} freed")
    for path in done["kept"]:
        _line(console, f"in use and kept: {path}")


def _rollback(console: Console, row: dict[str, Any]) -> None:
    _line(console, f"{row['path']}: generation {row['new']} is current, before it was {row['old']}")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f} us"


_VIEWS: dict[str, Callable[[Console, Any], None]] = {
    "ls": _ls,
    "verify": _verify,
    "retime": _retime,
    "explain": _explain,
    "diff": _diff,
    "export": _export,
    "import": _import,
    "prune": _prune,
    "rollback": _rollback,
}
