"""One live run as a screen of text: phase, classes and ranks, in as many lines and columns as there are.

Ranks that need a look come first: silent ones, then starting ones, then those that do one thing for longest. What does
not fit is summed up in one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_warmup.actors.run.status import ClassStatus, RankStatus, RunStatus
from ray_warmup.scripts.terminal.console import plain

FEW_LINES = 4
"""Ranks are shown in at least so many lines."""
SHOWN_WARNINGS = 2
BAR_COLUMNS = 60
RANK_COLUMNS = ("rank", "host", "state", "doing", "for", "task")
GAP = "  "
_ORDER = {"silent": 0, "starting": 1}
_STYLES = {"silent": "red", "starting": "yellow"}


def run_screen(status: RunStatus, width: int, height: int) -> RenderableType:
    """Draw a run.

    Args:
        status: of the run.
        width: columns of the terminal.
        height: lines that may be taken.
    """
    parts: list[RenderableType] = [_heading(status), _whose(status)]
    if status.total:
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=status.total, completed=status.done, width=min(width, BAR_COLUMNS)))
        parts.append(bar)
    if status.classes:
        parts.append(_class_table(status.classes))
    warnings = [_line(f"! {plain(text)}", "yellow") for text in status.warnings[-SHOWN_WARNINGS:]]
    taken = len(parts) + len(status.classes) + len(warnings)
    parts.append(_rank_table(status.ranks, max(FEW_LINES, height - taken - 2), width))
    return Group(*parts, *warnings)


def duration(seconds: float) -> str:
    """Format seconds for people: `5.2 s`, `48 s`, `12 min 5 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def short_task(task: str) -> str:
    """Shorten a task's id to its op, shape and bucket, which tell it from its neighbours.

    Example: `bf16_gemm:cublaslt:bfloat16:k=1024,n=4096@256` gives `bf16_gemm k=1024,n=4096@256`.
    """
    words = task.split(":")
    if len(words) < 3 or "@" not in words[-1]:
        return task
    return f"{words[0]} {words[-1]}"


def _heading(status: RunStatus) -> Text:
    text = Text(plain(status.phase), style="bold", no_wrap=True, overflow="ellipsis")
    if status.phase_s is not None:
        text.append(f"  {duration(status.phase_s)} of {status.phase_limit_s:g} s", style="not bold")
    if status.total:
        text.append(f"  {status.done}/{status.total} tasks", style="not bold")
    return text


def _whose(status: RunStatus) -> Text:
    """Return a line of its own for the run's id, which `cancel` and `logs` take, because both do not fit on one."""
    return _line(f"run {plain(status.run_id)}, begun {duration(status.elapsed_s)} ago", "dim")


def _class_table(classes: Sequence[ClassStatus]) -> Table:
    table = _table("class", "ranks", "tasks", "tuned", "running", "kept", "default", "left")
    for row in classes:
        left = "" if row.left_s is None else f"~{duration(row.left_s)}"
        counts = (row.num_ranks, row.recorded, row.tuned, row.running, row.kept, row.dropped)
        table.add_row(plain(row.key)[:12], *map(str, counts), left)
    return table


def _rank_table(ranks: Sequence[RankStatus], lines: int, width: int) -> RenderableType:
    ordered = sorted(ranks, key=_urgency)
    shown = ordered
    if len(ordered) > lines:
        shown = ordered[: lines - 1]
    rows: list[tuple[str, ...]] = [RANK_COLUMNS]
    for rank in shown:
        rows.append(_cells(rank))
    # Padded by hand: a table of the library takes seconds for a thousand rows.
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = max(1, width - sum(widths[:-1]) - len(GAP) * (len(widths) - 1))
    styles = ["dim", *(_STYLES.get(rank.state, "") for rank in shown)]
    drawn = Text(no_wrap=True, overflow="crop")
    for row, style in zip(rows, styles, strict=True):
        drawn.append(GAP.join(map(set_cell_size, row, widths)).rstrip() + "\n", style=style)
    if len(shown) < len(ordered):
        drawn.append(f"and {_summed(ordered[len(shown) :])}\n", style="dim")
    drawn.right_crop(1)
    return drawn


def _cells(rank: RankStatus) -> tuple[str, ...]:
    state = rank.state
    if state == "silent" and rank.heard_s is not None:
        state = f"silent {duration(rank.heard_s)}"
    host = rank.host.partition(".")[0] or rank.node_id[:8]
    cells = (str(rank.rank), host, state, rank.doing, duration(rank.for_s), short_task(rank.task))
    return tuple(map(plain, cells))


def _summed(ranks: Sequence[RankStatus]) -> str:
    """Sum up the ranks that are not shown: `936 more: 900 tune, 36 idle`."""
    counts = Counter(plain(rank.doing or rank.state) for rank in ranks)
    words = ", ".join(f"{count} {name}" for name, count in counts.most_common(4))
    return f"{len(ranks)} more: {words}"


def _urgency(rank: RankStatus) -> tuple[int, float, int]:
    """Sort silent and starting ranks first, then those that do something for longest, idle ones last."""
    order = _ORDER.get(rank.state, 2)
    if order == 2 and rank.doing in ("", "idle"):
        order = 3
    return order, -rank.for_s, rank.rank


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
