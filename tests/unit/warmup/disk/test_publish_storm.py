"""Publishes under kill -9 with readers (2,000 with `-m long`): nobody ever sees a partial or mixed artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.store.node_store import NodeStore
from tests import publish_storm
from tests.artifacts import ROOT, table_bytes


@pytest.mark.timeout(400)  # 2,000 publishes take 30 s on two idle cores
@pytest.mark.parametrize(("publishes", "kills"), [(150, 3), pytest.param(2000, 50, marks=pytest.mark.long)])
def test_readers_never_see_half_under_kill_9(publishes: int, kills: int) -> None:
    """Publishes, SIGKILLs at any moment, and pruning meanwhile: every read is whole and consistent."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "publish_storm.py"), "--publishes", str(publishes), "--readers", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)

    assert outcome["publishes"] >= publishes
    assert outcome["kills"] >= kills
    assert all(reader["artifacts"] >= 100 and reader["misses"] == 0 for reader in outcome["readers"])


@pytest.mark.parametrize("planted", ["half a table", "another artifact's table"])
def test_the_storms_reader_notices(tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of the storm fails on a half written table and on a table that is not its manifest's."""
    store = NodeStore(tmp_path / "store")
    store.publish(publish_storm.ARTIFACTS[1])
    if planted == "half a table":
        store.table_path.write_bytes(table_bytes(1, size=3000)[:1000])
    else:
        mixed = table_bytes(2, size=3000)
        monkeypatch.setattr(publish_storm.Artifact, "table", property(lambda _: mixed))

    with pytest.raises(AssertionError, match=r"not whole|belong together"):
        publish_storm.read_until(tmp_path / "never", store.directory, tmp_path / "report")


def test_the_storm_prunes() -> None:
    """The storm's publishers share blobs among few artifacts, so pruning strikes what others use."""
    digests: list[set[str]] = [{blob.sha256 for blob in _manifest(i).blobs} for i in (1, 2)]

    assert len(digests[0] & digests[1]) == 1
    assert publish_storm.VARIETY < 100


def _manifest(number: int) -> Manifest:
    return publish_storm.ARTIFACTS[number].manifest
