"""A node that is cut off until Ray declares it dead, comes back, and is started again on its old disk.

Run as `cut_network.py` is, whose two machines and cable it uses. Prints one JSON document.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.cut_network import HEAD, OTHER, PORT, Machine, answer, connected, cut, heal, request
from tests.testbed import FAST_HEALTH, wait_until

SOON_S = 60.0
NOTICED_S = 20.0
"""For the registry, which looks at the nodes every two seconds, and asks a new one by a task."""


def told(machine: Machine, *words: str) -> tuple[int, str]:
    """Exit code and output of one command of ours there."""
    command = (sys.executable, "-m", "ray_warmup.scripts.cli", *words)
    process = machine.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.communicate(timeout=SOON_S)[0]
    return process.returncode, said


def seconds(condition: Callable[[], bool], limit_s: float = SOON_S) -> float:
    """How long it takes until this is so, or infinity where it is not in time."""
    began = time.monotonic()
    if not wait_until(condition, limit_s):
        return float("inf")
    return time.monotonic() - began


def raylets(machine: Machine) -> int:
    """Number of its raylets."""
    said = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return sum("raylet/raylet" in line and f"--node_ip_address={machine.address}" in line for line in said.splitlines())


def alive(address: str) -> list[str]:
    """Ids of this machine's nodes that Ray takes for alive."""
    import ray

    return [row["NodeID"] for row in ray.nodes() if row["Alive"] and row["NodeManagerAddress"] == address]


def known() -> dict[str, dict[str, Any]]:
    """What the registry knows, by key."""
    from ray_warmup.actors.registry.client import registry_status

    status = registry_status()
    assert status is not None
    return {row.key_sha256: asdict(row) for row in status.keys}


def scenario(base: Path) -> dict[str, Any]:
    """The other machine holds one artifact and measures a second one when it is cut off."""
    import ray

    head, other = connected(base)
    head.follows({"task_s": 0.05})
    other.follows({"task_s": 1.0})
    config = base / "second.yaml"
    config.write_text(request())
    head.ray("--head", f"--port={PORT}", "--include-dashboard=false", f"--system-config={json.dumps(FAST_HEALTH)}",
             "--num-cpus=1", f"--temp-dir={base / 'ray'}")  # fmt: skip
    other.ray(f"--address={HEAD}:{PORT}", "--num-cpus=1")
    ray.init(address=f"{HEAD}:{PORT}", namespace="cut", log_to_driver=False, _node_ip_address=HEAD)
    (old,) = alive(OTHER)
    first = answer(other.join(request(tokens=1)))
    (held,) = known()
    before = other.calls("tune")
    leader = other.join(request())
    assert wait_until(lambda: other.calls("tune") >= before + 2, SOON_S), "the leader never measured"
    heir = head.join(request())
    assert wait_until(lambda: head.calls("prepare") >= 1, SOON_S), "the heir never began"
    time.sleep(3)  # until it has asked, and waits
    cut(other)
    lost_s = seconds(lambda: alive(OTHER) == [])
    led = answer(heir)
    forgotten_s = seconds(lambda: known()[held]["nodes"] == (), NOTICED_S)
    rows_lost = known()
    survived = raylets(other)
    heal(other)
    raylet_s = seconds(lambda: raylets(other) == 0)
    leader_code = leader.wait(timeout=SOON_S)
    stopped = told(other, "wait", "--config", str(config), "--timeout", "1")
    other.ray(f"--address={HEAD}:{PORT}", "--num-cpus=1")
    assert wait_until(lambda: alive(OTHER) != [], SOON_S), "the node never came back"
    (new,) = alive(OTHER)
    known_s = seconds(lambda: known()[held]["nodes"] == (new,), NOTICED_S)
    measured = other.calls("tune")
    late = answer(other.join(request()))
    return {
        "first": first, "heir": led, "late": late, "held": held, "old": old, "new": new, "head": alive(HEAD)[0],
        "lost_s": lost_s, "raylet_s": raylet_s, "known_s": known_s, "forgotten_s": forgotten_s,
        "survived": survived, "leader_code": leader_code,
        "rows_lost": rows_lost, "rows": known(), "measured_late": other.calls("tune") - measured,
        "wait_stopped": stopped,
        "wait": told(other, "wait", "--config", str(config), "--timeout", "5"),
        "verify": told(head, "cache", "verify", "--cluster", "--address", f"{HEAD}:{PORT}"),
        "status": told(head, "status", "--address", f"{HEAD}:{PORT}"),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(scenario(Path(sys.argv[1]))), flush=True)
