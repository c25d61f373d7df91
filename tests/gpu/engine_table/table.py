"""The table of the measured starts as Markdown: `python -m tests.gpu.engine_table.table rows.json [logs]`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = ("empty", "own", "ours")


def by_prefix(rows: Sequence[Row], prefix: str) -> list[Row]:
    """Rows of one column that came to their end."""
    return [row for row in rows if row["name"].startswith(prefix) and "error" not in row and "problem" not in row]


def figure(rows: Sequence[Row], value: Callable[[Row], float | None]) -> str:
    """Median and range of one figure over the starts of a column."""
    values = [found for row in rows if (found := value(row)) is not None]
    if not values:
        return "-"
    middle = statistics.median(values)
    return f"{middle:.1f}" if len(values) == 1 else f"{middle:.1f} ({min(values):.1f}-{max(values):.1f})"


def init_of(row: Row) -> float | None:
    """Seconds of vLLM's own init line."""
    told = row.get("facts", {}).get("init")
    return None if told is None else float(told if isinstance(told, str) else told[-1])


def first_token_of(row: Row) -> float | None:
    """Seconds from the process' start to its first token."""
    return row.get("first_token")


def blocks_of(row: Row) -> int | None:
    """KV-cache blocks of 16 tokens."""
    told = row.get("facts", {}).get("kv_tokens")
    return None if told is None else int(str(told).replace(",", "")) // 16


def columns(rows: Sequence[Row], model: str) -> list[tuple[str, list[Row]]]:
    """The columns of one model."""
    found = [
        ("everything empty, nothing of ours", by_prefix(rows, f"{model} empty")),
        ("everything empty, recorded", by_prefix(rows, f"{model} recording")),
        ("vLLM's own warm start", by_prefix(rows, f"{model} own")),
        ("moved by hand", by_prefix(rows, f"{model} moved")),
        ("ours, on a home that joins", [row for row in by_prefix(rows, f"{model} ours") if "again" not in row["name"]]),
    ]
    return [(title, part) for title, part in found if part]


def table(rows: Sequence[Row], model: str) -> str:
    """One model's table."""
    parts = columns(rows, model)
    lines = ["| | " + " | ".join(title for title, _ in parts) + " |", "|---" * (len(parts) + 1) + "|"]
    figures: list[tuple[str, Callable[[list[Row]], str]]] = [
        ("init engine", lambda part: figure(part, init_of)),
        ("process start to first token", lambda part: figure(part, first_token_of)),
        ("first request / tenth, s", lambda part: first_and_tenth(part)),
        ("kernels that vLLM's monitor reports", lambda part: counts(part, lambda row: len(row.get("reported", ())))),
        ("compiled by our count", lambda part: counts(part, compiled_of)),
        ("Triton kernels on disk before, after", lambda part: kernels(part)),
        ("KV-cache blocks", lambda part: counts(part, blocks_of)),
    ]
    lines += [f"| {name} | " + " | ".join(told(part) for _, part in parts) + " |" for name, told in figures]
    return "\n".join(lines)


def first_and_tenth(rows: Sequence[Row]) -> str:
    """The worst first request of a column beside its tenth."""
    pairs = [(row["first_request"], row["next_ten"][-1], row["next_ten"][0]) for row in rows if "next_ten" in row]
    if not pairs:
        return "-"
    first, tenth, second = max(pairs)
    return f"{first:.3f}, then {second:.3f} / {tenth:.3f}"


def counts(rows: Sequence[Row], value: Callable[[Row], int | None]) -> str:
    """One count of every start; once where all are equal."""
    values = [found for row in rows if (found := value(row)) is not None]
    return ", ".join(str(number) for number in dict.fromkeys(values)) or "-"


def compiled_of(row: Row) -> int | None:
    """Everything that our counters heard or saw."""
    ours = row.get("ours", {})
    if not ours.get("ranks"):
        return None
    heard = sum(sum(rank["counts"]["compiled"].values()) for rank in ours["ranks"])
    return max(heard, len(ours["gained"]))


def kernels(rows: Sequence[Row]) -> str:
    """Compiled kernels in Triton's directory."""
    pairs = {(row["kernels"]["before"], row["kernels"]["after"]) for row in rows if "kernels" in row}
    return ", ".join(f"{before} -> {after}" for before, after in sorted(pairs)) or "-"


def compared(logs: Path, ours: Sequence[str], own: str) -> str:
    """Greedy answers of starts with and without us, prompt by prompt."""
    reference = json.loads((logs / own / "answers.json").read_text())
    tokens = {token for row in reference for token in row["tokens"]}
    lines = [f"{own}: {len(reference)} prompts, {len(tokens)} different tokens"]
    for name in ours:
        path = logs / name / "answers.json"
        if not path.exists():
            continue
        answers = json.loads(path.read_text())
        equal = sum(a["tokens"] == b["tokens"] for a, b in zip(reference, answers, strict=True))
        bits = sum(a["first"] == b["first"] for a, b in zip(reference, answers, strict=True))
        lines.append(f"{name}: {equal} equal sequences, {bits} times equal log probabilities")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    rows = json.loads(Path(sys.argv[1]).read_text())
    for model in ("dense", "experts"):
        sys.stdout.write(f"\n## {model}\n\n{table(rows, model)}\n")
    for name in ("modules there, empty", "modules there, ours", "no artifact", "another artifact"):
        for row in by_prefix(rows, name):
            own = [rank["own_seconds"] for rank in row["ours"]["ranks"]]
            beside = [round(one["own_seconds"], 3) for one in row["ours"]["beside"]]
            told = f"init {init_of(row)}, first token {first_token_of(row)}, ours {own} and {beside}"
            sys.stdout.write(f"\n{name}: {told}\n")
    if len(sys.argv) > 2:
        names = [row["name"] for row in rows if row["name"].startswith("dense ours")]
        last = [row["name"] for row in rows if row["name"].startswith("dense own")][-1]
        sys.stdout.write(f"\n{compared(Path(sys.argv[2]), names, last)}\n")


if __name__ == "__main__":
    main()
