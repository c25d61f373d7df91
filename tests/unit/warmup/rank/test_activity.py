"""What a rank records on disk for its successor, where the disk lets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray_warmup.warmup.device.tuner import Watch
from ray_warmup.warmup.messages.values import CrashRecord
from ray_warmup.warmup.rank.activity import RankActivity

FULL = """
import resource, sys
from pathlib import Path
from ray_warmup.warmup.rank.activity import RankActivity
from ray_warmup.warmup.device.tuner import Watch
record = RankActivity()
record.open(Path(sys.argv[1]), 0o700)
record.begin("tune", "first")
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
record.begin("tune", "second")
record.tactic(Watch("op", "second", "Runner", "3"))
print(record.heartbeat(Watch()).task_id)
"""


def test_a_disk_that_fills_up_costs_only_the_record(tmp_path: Path) -> None:
    """When no byte more can be written the rank goes on, still says what it does, and leaves no stale record."""
    crash_record = tmp_path / "crash_record"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(crash_record)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "second"
    assert not crash_record.exists()


def test_the_successor_reads_what_was_running(tmp_path: Path) -> None:
    """Task, runner and tactic of a process that ended without closing are its successor's last words."""
    crash_record = tmp_path / "crash_record"
    first = RankActivity()
    first.open(crash_record, 0o700)
    first.begin("tune", "task")
    first.tactic(Watch("op", "task", "Runner", "3"))
    second = RankActivity()
    second.open(crash_record, 0o700)
    assert second.last_words is not None
    assert second.last_words == CrashRecord("tune", "task", "op", "Runner", "3")
    second.close()
    first.close()
    assert not list(tmp_path.iterdir())
