"""The plot of the README is the one that its script draws from the committed results."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from tests.gpu.plot_starts import RESULTS, bars, drawn

DOCUMENT = json.loads((RESULTS / "engine_table.json").read_text())


def test_the_committed_plot_is_current() -> None:
    """Drawn again it is the same, and it is well formed."""
    text = (RESULTS / "engine_start.svg").read_text()
    assert text == drawn(bars(DOCUMENT))
    assert ElementTree.fromstring(text).tag.endswith("svg")


def test_bars_are_the_figures_of_the_table() -> None:
    """The medians that the README's table gives, in its order."""
    assert [f"{bar.seconds:.1f}" for bar in bars(DOCUMENT)] == ["143.7", "15.2", "17.7", "481.9", "20.1", "18.9"]
