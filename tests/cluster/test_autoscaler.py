"""PLACING where an autoscaler starts the nodes: Ray's own fake one, which starts real raylets on this machine.

Slow, so it is run by a command of its own: `pytest -m long tests/cluster/test_autoscaler.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.own_head import environment_below, free_port, own_head
from tests.testbed import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.long]
TOOL = (sys.executable, "-m", "ray_warmup.scripts.cli")
CONFIG = {
    "cluster": {"world_size": 2, "gpus_per_rank": 0, "cpus_per_rank": 1, "backend": "cpu"},
    "model": {"name": "qwen3-0.6b", "dtype": "float32"},
    "autotune": {"buckets": [1]},
    "guard": {"rounds": 7},
    "timeouts": {"placing": 120},
}


LISTS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""What the schema of a cluster's file asks for and a fake one leaves empty."""
HEAD_ID = "f" * 51 + "00000"
"""The node id by which the fake provider knows its head."""


def autoscaling(address: str) -> dict[str, object]:
    """What the autoscaler may start: two nodes with one CPU each."""
    worker = {"resources": {"CPU": 1, "object_store_memory": 100000000}, "node_config": {}}
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 20.0,
        "idle_timeout_minutes": 5,
        "provider": {"type": "fake_multinode", "gcs_address": address, "launch_multiple": True},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": worker | {"min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("docker", "auth", "file_mounts")},
        **{name: [] for name in LISTS},
        "file_mounts_sync_continuously": False,
    }


def test_placing_waits_for_nodes_that_an_autoscaler_starts() -> None:
    """A head without CPUs and no other node: the group is asked for, the nodes come, the run is READY on them."""
    base = Path(tempfile.mkdtemp(prefix="rwa"))
    environment = environment_below(base)
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID}
    fake["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = HEAD_ID
    port = free_port()
    config, scaling = base / "config.json", base / "scaling.json"
    config.write_text(json.dumps(CONFIG))
    scaling.write_text(json.dumps(autoscaling(f"127.0.0.1:{port}")))
    arguments = ("--num-cpus=0", f"--autoscaling-config={scaling}")
    try:
        with own_head(base, environment | fake, *arguments, port=port) as address:
            done = subprocess.run(
                [*TOOL, "run", "--config", str(config), "--set", f"cluster.address={address}"],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "PLACING: 2 ranks, backend cpu" in said
    result = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("WARMUP_RESULT "))
    assert (result["ready"], result["ranks"]) == (True, 2)
