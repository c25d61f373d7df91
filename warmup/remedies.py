"""Remedies of warnings. A warning without one is not told.

Those that several places give stand here.
"""

from __future__ import annotations

ARROW = " -> "
"""Between what happened and what to do."""

NOTHING = "nothing to do; look at the host's memory and kernel log if it happens again"
COMPILES = "run `ray-warmup doctor` on that node: until that is mended it compiles for itself, which takes minutes"
WRITABLE = "run `ray-warmup doctor` on that node; cache.root must be a writable directory with room"
SILENT = "a busy host needs a larger timeouts.heartbeat; a stopped process is replaced after timeouts.silence"
SLOW = "run `ray-warmup doctor --cluster`: clocks held down, another job on the device, or a weaker device"
NODE_LOST = "look at that node; cluster.on_node_loss says whether a run ends, goes on without it, or moves"
STORE = "run `ray-warmup cache verify` on that node; what cannot be read is measured again"
LEFT_OUT = "engine.disabled leaves it out without a warning, engine.required makes it fail the run"
QUARANTINED = "`ray-warmup cache quarantine ls` shows it, `clear` allows it again"
TIDYING = "look at that node; `ray list actors` and `ray list placement-groups` show whether anything is still held"
MEMORY = "free the device before a run, or raise autotune.max_memory_bytes"
IDENTITY = "`ray-warmup cache explain --config ...` names what differs"


def with_remedy(text: str, remedy: str) -> str:
    """Join what happened and what to do. Raises ValueError without either."""
    if not (text.strip() and remedy.strip()):
        raise ValueError(f"a warning needs a text and a remedy: {text!r}, {remedy!r}")
    return f"{text}{ARROW}{remedy}"


def parts(warning: str) -> tuple[str, str]:
    """Split a warning into what happened and what to do, which is empty in one of an earlier release."""
    text, arrow, remedy = warning.rpartition(ARROW)
    if not arrow:
        return warning, ""
    return text, remedy
