"""The control service of a cluster is killed during a run: report, verdict and last line come before Ray ends it all.

A minute and more, so it is run by a command of its own: `pytest -m long tests/faults/test_control_service.py`.
The head's raylet outlives its control service for a minute, as on a cluster without `ray start --block`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.own_head import environment_below, own_head, processes_below
from tests.testbed import ROOT, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.long]
ENDED_S = 60.0
"""Ray ends every process then, without a last line. 30 s out of reach are a loss, which is seen within 10 s more."""
CONFIG = {
    "cluster": {"ranks_per_node": 2, "gpus_per_rank": 0, "cpus_per_rank": 1, "backend": "cpu"},
    "model": {"name": "qwen3-0.6b", "dtype": "float32"},
    "autotune": {"max_num_batched_tokens": 8192, "max_num_seqs": 64},
}


def test_a_run_whose_control_service_is_killed_ends_with_report_and_verdict() -> None:
    """In TUNING: FAILED by the service's name, the verdict is on the node, no traceback, before Ray ends it."""
    base = Path(tempfile.mkdtemp(prefix="rwg"))
    environment = environment_below(base)
    config, out = base / "config.json", base / "out"
    try:
        with own_head(base, environment, "--num-cpus=2") as address, out.open("w") as log:
            config.write_text(json.dumps(CONFIG))
            tool = [sys.executable, "-m", "ray_warmup.scripts.cli"]
            command = [*tool, "run", "--config", str(config), "--set", f"cluster.address={address}"]
            run = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
            assert wait_until(lambda: "TUNING" in out.read_text(), 120), out.read_text()
            (service,) = (pid for pid, name in processes_below(base).items() if "gcs_server" in name.split()[0])
            began = time.monotonic()
            os.kill(service, signal.SIGKILL)
            assert run.wait(90) == 1
            assert time.monotonic() - began < ENDED_S
            last = out.read_text()
            verdict = next((base / "cache").rglob("verdict.json")).read_text()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    assert "Traceback" not in last
    line = last.strip().splitlines()[-1]
    assert line.startswith("WARMUP_RESULT ")
    assert "control service (GCS" in json.loads(line.removeprefix("WARMUP_RESULT "))["error"]
    said = json.loads(verdict)
    assert (said["ready"], "control service (GCS" in str(said["error"])) == (False, True)
