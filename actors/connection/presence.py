"""Tell without importing Ray, which takes half a second, whether this machine may be a node of a cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ray_warmup.configs import env

PROCESSES = ("raylet", "gcs_server")
"""Names of the processes by which Ray itself finds a cluster on a machine. Every node has the first."""
ADDRESS_FILE = "ray_current_cluster"
"""File of the cluster that `ray start` began last, below Ray's temporary directory."""
PROC = Path("/proc")


def may_be_node(proc: Path = PROC) -> bool:
    """Return False only if Ray would find no cluster here: no file that names one, and no process of one."""
    directory = Path(env.snapshot().get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    if (directory / ADDRESS_FILE).exists():
        return True
    if not (proc / "self").exists():
        return True  # no Linux: Ray looks itself
    return any(_name_of(path) in PROCESSES for path in proc.glob("[0-9]*/comm"))


def _name_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""  # it has just ended
