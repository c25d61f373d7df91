"""Variables of the measurement on a GPU are no part of an engine's identity: a proof would miss what was recorded."""

from __future__ import annotations

import re
from pathlib import Path

from ray_warmup.warmup.engines.sglang.factors import binding_variables

GPU = Path(__file__).resolve().parents[4] / "gpu"
VARIABLE = re.compile(r'"([A-Z]+(?:_[A-Z]+)*TABLE_[A-Z]+|TABLE_[A-Z]+)"')


def test_no_variable_of_the_measurement_binds() -> None:
    """What the measurement sets for its own processes changes no identity, unlike a variable with SGLang's prefix."""
    texts = [path.read_text() for path in (GPU / "sglang_start.py", *sorted((GPU / "sglang_table").glob("*.py")))]
    names = {name for text in texts for name in VARIABLE.findall(text)}
    assert {"TABLE_WORK", "TABLE_BEGAN"} <= names
    given = dict.fromkeys(names, "1") | {"SGLANG_SOMETHING": "1"}
    assert binding_variables(given) == {"SGLANG_SOMETHING": "1"}
