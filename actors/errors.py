"""Errors between processes. Those inside one process are in `warmup/errors.py`.

    WarmupError
    ├── PlacementError            the ranks cannot be placed: which resource, how much is asked, what each node has
    │   └── PlacementTimeoutError     not placed within timeouts.placing
    ├── StartupError              a rank actor did not start or nodes disagree on versions
    ├── TransferError             what was pushed through the object store did not arrive on a node
    ├── BusyError                 another run of the same key is active (exit code 3 with --no-wait)
    ├── CoordinatorLostError      the coordinator died under the run
    ├── ReplicaNotWarmError       a serving replica could not become warm
    └── ClusterError              Ray could not be reached or started

| surroundings | outcome |
|---|---|
| objects spilled, or one larger than the store | they arrive, through Ray's disk |
| an object lost | TransferError in the rank that wants it, which fails the run by name |
| the coordinator lost, who owns them all | CoordinatorLostError; a new run resumes |
| another FlashInfer on a node | a class of its own, with a warning that names part and cost |
| another Ray or ray-warmup on a node | StartupError |

What disks and files do is in `warmup/store/node_store.py`. Exit codes of every command: 0 ready, 1 failed, 2 wrong
configuration or usage, 3 busy, 4 ready without the table on every disk (`cache.require_disk: false`), 124 `wait`
timed out (`actors/questions/verdicts.py`), 143 ended by SIGTERM (`scripts/terminal/endings.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_warmup.warmup.errors import WarmupError

if TYPE_CHECKING:
    # Only for types: every command imports this module, and reports take long to define.
    from ray_warmup.warmup.engines.reports.report import EngineReport
    from ray_warmup.warmup.report import WarmupReport

EXIT_READY = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUSY = 3
EXIT_NOT_ON_DISK = 4
EXIT_TIMEOUT = 124
EXIT_TERMINATED = 128 + 15


class PlacementError(WarmupError):
    """The cluster cannot hold the ranks. Example: 16 GPUs asked of two nodes that have 4 each."""


class PlacementTimeoutError(PlacementError):
    """The ranks were not placed in time. Example: another job holds the GPUs."""


class StartupError(WarmupError):
    """A rank actor did not start, or a node has other versions of this package, Ray or FlashInfer."""


class TransferError(WarmupError):
    """A node could not fetch what was pushed: the object was lost, or its owner died."""


class BusyError(WarmupError):
    """Another run of the same work is active in this cluster."""


class CoordinatorLostError(WarmupError):
    """The coordinator died.

    Finished tasks are in the node stores, and a new run resumes from them.
    """


class ClusterError(WarmupError):
    """Ray could not be reached or started."""


class ReplicaNotWarmError(WarmupError):
    """A serving replica could not become warm, and must not answer requests."""


class RunInterrupted(KeyboardInterrupt):
    """The driver was interrupted, and its run has ended: everything was given back, finished tasks are kept."""

    def __init__(self, report: WarmupReport | None) -> None:
        super().__init__("interrupted")
        self.report = report
        """Progress of the run, or None if the coordinator did not report it in time."""


class EngineRunInterrupted(KeyboardInterrupt):
    """The driver of a run with a real engine was interrupted, and its run has ended: what nodes hold is kept."""

    def __init__(self, report: EngineReport | None) -> None:
        super().__init__("interrupted")
        self.report = report
        """Progress of the run, or None if the coordinator did not report it in time."""
