"""What a killed prune leaves beside the stores."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cache_requests import perform


def test_temporary_files_in_the_root_go_with_the_next_prune(tmp_path: Path) -> None:
    """The file that tells the disk's time lies there; a fresh one may be another process's."""
    old, fresh = (tmp_path / f".now.{digit * 16}.tmp" for digit in "ab")
    old.touch()
    fresh.touch()
    os.utime(old, (1, 1))
    assert perform("prune", {"root": str(tmp_path), "keep": 9, "yes": True})["ok"]
    assert (old.exists(), fresh.exists()) == (False, True)
