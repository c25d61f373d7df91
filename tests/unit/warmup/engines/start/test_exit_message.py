"""The end of an engine's error message: what its processes logged, and its last lines."""

from __future__ import annotations

from ray_warmup.warmup.engines.start.exit_message import LOG_LINES, last_words


def test_the_error_of_another_process_is_shown_although_the_front_end_prints_after_it() -> None:
    """vLLM's front end ends with a traceback of its own, longer than the lines that are shown."""
    cause = "(EngineCore pid=7) ERROR 11-28 02:43:04 [core.py:1107] ValueError: no such kernel for token-of-mine"
    lines = ["INFO all is well", cause, *(f"  File {number}" for number in range(LOG_LINES)), "RuntimeError: see above"]

    told = last_words("\n".join(lines), frozenset({"token-of-mine"}))

    assert told.splitlines()[0] == "; its processes logged before:"
    assert "ValueError: no such kernel for" in told.splitlines()[1]
    assert "token-of-mine" not in told
    assert told.endswith("RuntimeError: see above")
    assert "all is well" not in told
    assert last_words(" \n", frozenset()) == "; it printed nothing"
