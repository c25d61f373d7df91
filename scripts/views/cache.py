"""Answers of `ray-warmup cache` for people: one small table for each command, of one node or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from ray_warmup.configs.clause import when
from ray_warmup.scripts.terminal.console import moment, say, wide_console
from ray_warmup.scripts.views.node_table import NodeTable
from ray_warmup.scripts.views.quarantine import show_lifted, show_rows
from ray_warmup.warmup.store.node_paths import simulated_roots

if TYPE_CHECKING:
    from ray_warmup.actors.stores.cache_commands import ClusterAnswer
    from ray_warmup.warmup.cache_admin.diff import Difference
    from ray_warmup.warmup.cache_admin.removals import Removal
    from ray_warmup.warmup.cache_admin.requests import CacheAnswer, Exported, Imported, Pruned, RetimedTable
    from ray_warmup.warmup.cache_admin.signing import Signed
    from ray_warmup.warmup.cache_admin.store_changes import Rollback
    from ray_warmup.warmup.cache_admin.store_inspection import Explanation, StoreRow
    from ray_warmup.warmup.cache_admin.store_verification import Verification

R = TypeVar("R")
Answers = Sequence[tuple[str, R]]
"""(node, its result); the node is empty where this one was asked alone."""


def show_answer(answer: CacheAnswer) -> None:
    """Print what this node answered to one command."""
    console = wide_console()
    if answer.result == () and not answer.command.startswith("quarantine"):
        return _line(console, "", _nothing(Path(answer.where)))
    return _VIEWS[answer.command](console, [("", answer.result)])


def show_nodes(answer: ClusterAnswer) -> None:
    """Print the answers of a cluster's nodes, each by name.

    The caller reports nodes that failed.
    """
    console = wide_console()
    stored, empty = [], []
    for row in answer.nodes:
        if row.error:
            continue
        if row.result is None:
            empty.append(row.node_id[:8])
        else:
            stored.append((row.node_id[:8], row.result))
    if stored:
        _VIEWS[answer.command](console, stored)
    for node in empty:
        _line(console, node, "nothing is stored here")


def _nothing(root: Path) -> str:
    simulated = simulated_roots(root)
    hint = ""
    if simulated:
        hint = f"; nodes that were simulated here have caches of their own: --root {simulated[0]}"
    return f"nothing is stored in {root}{hint}"


def size(count: float) -> str:
    """Bytes for people: `1.2 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            if unit == "B":
                return f"{count:.0f} {unit}"
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _state(row: StoreRow) -> str:
    if row.is_readable and row.current is None and not row.generations:
        return "unfinished"
    if row.problem:
        return "unusable"
    if row.is_held:
        return "in use"
    return "ok"


def _ls(console: Console, answers: Answers[tuple[StoreRow, ...]]) -> None:
    table = _table(answers, "key", "generations", "entries", "made", "on disk", "state")
    for node, rows in answers:
        for row in rows:
            generations = " ".join(f"{n}*" if n == row.current else str(n) for n in row.generations[-5:])
            made = ""
            if row.created_at is not None:
                made = moment(row.created_at)
            entries = "none"
            if row.entries is not None:
                entries = f"{row.entries} {row.guard}"
            entries = row.engine or entries
            state = _state(row)
            table.add(node, row.key_sha256[:12], generations, entries, made, size(row.disk_bytes), state)
    table.print(console)
    for node, rows in answers:
        for row in rows:
            key = row.key_sha256[:12]
            digest = ""
            if row.table:
                digest = f", table {row.table[:8]}"
            placed = when(row.placed, f", {row.placed} entries placed in engines' caches")
            carries = ""
            for kind, count in row.kinds:
                carries += f", {kind} {size(count)}"
            _line(console, node, f"{key} in {row.path}{digest}{carries}{placed}")
            if row.problem:
                _line(console, node, f"{key}: {row.problem}")
        if not rows:
            _line(console, node, "nothing is stored here")


def _verify(console: Console, answers: Answers[tuple[Verification, ...]]) -> None:
    table = _table(answers, "key", "generations", "files", "size", "state")
    for node, rows in answers:
        for row in rows:
            state = "damaged" if row.problems else "whole"
            counts = (str(row.generations), str(row.files), size(row.bytes))
            table.add(node, Path(row.path).name[:12], *counts, state)
    table.print(console)
    for node, rows in answers:
        for row in rows:
            _line(console, node, f"{Path(row.path).name[:12]} in {row.path}")
            for problem in row.problems:
                _line(console, node, problem)
        if not rows:
            _line(console, node, "nothing is stored here")


def _retime(console: Console, answers: Answers[RetimedTable]) -> None:
    for node, row in answers:
        table = _table(answers, "task", "runner", "tactic", "then", "now", "today", "")
        for entry in row.rows:
            then = ""
            if entry.then is not None:
                then = f"{entry.then:.3f}"
            drift = "drifted" if entry.drifted else ""
            names = (entry.task_id, entry.runner, str(entry.tactic))
            table.add(node, *names, then, f"{entry.now:.3f}", entry.decision, drift)
        table.print(console)
        timed = f"{len(row.rows)} of {row.entries} entries that differ from the default timed"
        _line(console, node, f"{timed}, {row.drifted} drifted: {row.path}")
    say(console, "then and now are the default's time over the entry's; retune where it drifted")


def _explain(console: Console, answers: Answers[Explanation]) -> None:
    for node, row in answers:
        if row.hit:
            _line(console, node, f"{row.path}: {row.reason or 'a hit'}")
            continue
        _line(console, node, f"{row.path}: a miss: {row.reason}")
        for path, difference in row.others:
            _line(console, node, f"  {path} differs in {difference}")


def _diff(console: Console, answers: Answers[Difference]) -> None:
    for node, row in answers:
        table = _table(answers, "task", f"generation {row.old}", f"generation {row.new}", "before", "after")
        for change in row.changed:
            times = (_time(change.old_s), _time(change.new_s))
            table.add(node, change.task, change.old, change.new, *times)
        table.print(console)
        for sign, tasks in (("+", row.added), ("-", row.removed)):
            for task in tasks:
                _line(console, node, f"{sign} {task}")
        for blob in row.blobs:
            _line(console, node, blob)
        _line(console, node, f"{row.same} entries are the same, {len(row.changed)} differ")


def _export(console: Console, answers: Answers[Exported]) -> None:
    for node, row in answers:
        _line(console, node, f"{row.file}: {size(row.bytes)} from {row.store}")


def _import(console: Console, answers: Answers[Imported]) -> None:
    for node, row in answers:
        wrote = "which was there already"
        if row.files:
            wrote = f"{size(row.bytes)} in {len(row.files)} files"
        _line(console, node, f"{row.path}: generation {row.generation}, {wrote}")
        for kind, count in row.placed.items():
            _line(console, node, f"  {kind} is in place for engines: {count} files written")
        for note in row.notes:
            _line(console, node, f"  note: {note}")


def _prune(console: Console, answers: Answers[Pruned]) -> None:
    is_dry, has_plan = True, False
    for node, row in answers:
        _plan(console, node, row.plan)
        done = row.done
        for problem in row.untouched:
            _line(console, node, problem)
        if done is not None:
            _line(console, node, f"removed: {len(done.removed)}, {size(done.freed_bytes)} freed")
            for path in done.kept:
                _line(console, node, f"in use and kept: {path}")
        is_dry = is_dry and done is None
        has_plan = has_plan or bool(row.plan)
    if has_plan and is_dry:
        say(console, "dry run: nothing was removed; --yes removes it")


def _plan(console: Console, node: str, plan: Sequence[Removal]) -> None:
    """Print what a prune removes: entries in engines' caches as one line, anything else one by one."""
    if not plan:
        _line(console, node, "the rules name nothing to remove")
    placed, placed_bytes = 0, 0
    others = []
    for removal in plan:
        if removal.what == "placed":
            placed += 1
            placed_bytes += removal.bytes
        else:
            others.append(removal)
    if placed:
        _line(console, node, f"{placed} unused entries in engines' caches, {size(placed_bytes)}")
    for removal in others:
        what: str = removal.what
        if removal.generation is not None:
            what = f"generation {removal.generation}"
        _line(console, node, f"{what}, {size(removal.bytes)}, {removal.reason}: {removal.path}")


def _sign(console: Console, answers: Answers[Signed]) -> None:
    for node, done in answers:
        _line(console, node, f"{done.path}: generation {done.generation} is signed by key {done.key_id}")


def _rollback(console: Console, answers: Answers[Rollback]) -> None:
    for node, row in answers:
        _line(console, node, f"{row.path}: generation {row.new} is current, before it was {row.old}")


def _table(answers: Answers[Any], *columns: str) -> NodeTable:
    return NodeTable([node for node, _ in answers], *columns, whole=("key",))


def _line(console: Console, node: str, text: str) -> None:
    where = when(node, f"node {node}: ")
    say(console, f"{where}{text}")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e6:.1f} us"


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
    "sign": _sign,
    "quarantine ls": show_rows,
    "quarantine clear": show_lifted,
}
