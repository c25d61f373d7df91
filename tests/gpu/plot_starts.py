"""Draw the engine starts of `results/engine_table.json` as an SVG that is readable on light and dark pages.

python -m tests.gpu.plot_starts        # writes tests/gpu/results/engine_start.svg
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 760, 210, 70, 22, 8, 62
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1b1f27; }
  .title { font-size: 15px; font-weight: 600; }
  .note { fill: #5a6372; font-size: 12px; }
  .empty { fill: #c2571a; } .own { fill: #8a94a3; } .ours { fill: #2f6fd6; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e9ef; } .note { fill: #9aa5b5; }
    .empty { fill: #e07a3f; } .own { fill: #7d8797; } .ours { fill: #6aa2ff; }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: model, kind of start, and seconds."""

    model: str
    kind: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """The starts behind one bar, by their names in the results."""

    model: str
    kind: str
    machine: str
    starts: tuple[str, ...]


KINDS = (("empty", "empty caches"), ("own", "vLLM's own warm start"), ("ours", "ours, on a new node"))


ROWS = (
    Row("Qwen3-0.6B", "empty", "first machine", ("dense empty",)),
    Row("Qwen3-0.6B", "own", "first machine", ("dense own 0", "dense own 1", "dense own 2")),
    Row("Qwen3-0.6B", "ours", "first machine", ("dense ours 0", "dense ours 1", "dense ours 2")),
    # Its only start with empty caches is the one that was recorded.
    Row("Qwen3-30B-A3B, block fp8", "empty", "first machine", ("experts recording",)),
    Row("Qwen3-30B-A3B, block fp8", "own", "second machine", ("experts own 0", "experts own 1")),
    Row("Qwen3-30B-A3B, block fp8", "ours", "second machine", ("experts ours 0", "experts ours 1", "experts ours 2")),
)


def bars(document: dict[str, dict[str, list[dict[str, str]]]]) -> list[Bar]:
    """Return the median of `init engine` of each row's starts."""
    found = []
    for row in ROWS:
        starts = {start["name"]: start for start in document[row.machine]["rows"]}
        seconds = [float(starts[name]["init"]) for name in row.starts]
        found.append(Bar(row.model, row.kind, statistics.median(seconds)))
    return found


def drawn(found: list[Bar]) -> str:
    """Return the plot as SVG."""
    scale = (WIDTH - LEFT - RIGHT) / max(bar.seconds for bar in found)
    labels = dict(KINDS)
    lines, y, model = [], TOP, ""
    for bar in found:
        if bar.model != model:
            model = bar.model
            y += GAP * 2
            lines.append(f'<text class="title" x="0" y="{y + 16}">{model}</text>')
            y += BAR
        middle = y + BAR - 6
        lines.append(f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{labels[bar.kind]}</text>')
        width = bar.seconds * scale
        lines.append(f'<rect class="{bar.kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 4}" rx="3"/>')
        lines.append(f'<text x="{LEFT + width + 6:.1f}" y="{middle}">{bar.seconds:.1f} s</text>')
        y += BAR + GAP // 2
    head = '<text class="title" x="0" y="18">Seconds in which vLLM 0.33.0 makes its engine, on an H200</text>'
    note = '<text class="note" x="0" y="40">init engine, median; tests/gpu/results/engine_table.json</text>'
    size = f'width="{WIDTH}" height="{y + 10}" viewBox="0 0 {WIDTH} {y + 10}"'
    body = "\n".join([head, note, *lines])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def main() -> None:
    """Write the plot."""
    document = json.loads((RESULTS / "engine_table.json").read_text())
    (RESULTS / "engine_start.svg").write_text(drawn(bars(document)))


if __name__ == "__main__":
    main()
