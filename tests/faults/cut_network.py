"""Two machines in network namespaces of their own, between which the network is cut, and a leader behind the cut.

    unshare --user --map-root-user --net --pid --fork --mount-proc --kill-child \\
        python -m tests.faults.cut_network DIRECTORY

The head is in this process' namespace, the other node in a second one. While the network is cut, frames go to an
address that nobody has: no connection is refused or reset, nothing arrives, and nothing is known of it on either side.
Everything ends with this process, because its process namespace does. Prints one JSON document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.own_head import environment_below
from tests.testbed import ROOT, wait_until

HEAD, OTHER, PORT = "10.77.0.1", "10.77.0.2", 6399
NOBODY = "02:00:00:00:00:99"
ANSWERED_S = 100.0
# A node that is cut off for some seconds is not lost yet: its processes live and come back.
PATIENT = json.dumps({"health_check_failure_threshold": 100})

JOIN = """
import json, os, sys
from dataclasses import asdict
import ray
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what tests.testbed wants; Ray has read the other one
import tests.testbed
from tests.joiners import Joiner

address, ip, text = sys.argv[1:]
ray.init(address=address, namespace="cut", log_to_driver=False, _node_ip_address=ip)
print(json.dumps(asdict(Joiner().join(text, 60.0))), flush=True)
"""


@dataclass(frozen=True)
class Machine:
    """One side of the cut."""

    address: str
    directory: Path
    enter: tuple[str, ...]
    """Command that runs another one in its namespace."""

    @property
    def environment(self) -> dict[str, str]:
        """Its variables, with every cache below its directory."""
        own = {"RAY_WARMUP_CACHE_ROOT": "root", "FLASHINFER_WORKSPACE_BASE": "workspace", "TRITON_CACHE_DIR": "triton"}
        paths = {name: str(self.directory / folder) for name, folder in own.items()}
        script = {"RAY_WARMUP_TEST_SCRIPT": str(self.directory / "script.json"), "HOME": str(self.directory)}
        # The tests' own setting binds everything to the loopback device, which the two machines do not share.
        return environment_below(self.directory) | paths | script | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}

    def follows(self, script: Mapping[str, Any]) -> None:
        """Give its tuner a script, and a place for its notes."""
        (self.directory / "trace").mkdir(parents=True)
        (self.directory / "script.json").write_text(json.dumps({"trace": str(self.directory / "trace"), **script}))

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command there."""
        return subprocess.Popen([*self.enter, *command], cwd=ROOT, env=self.environment, text=True, **options)

    def ray(self, *arguments: str) -> None:
        """Start a raylet there."""
        ray = str(Path(sys.executable).with_name("ray"))
        shared = ["--disable-usage-stats", f"--node-ip-address={self.address}", "--object-store-memory=120000000"]
        ports = ["--min-worker-port=0", "--max-worker-port=0"]
        command = [*self.enter, ray, "start", *shared, *ports, *arguments]
        subprocess.run(command, env=self.environment, check=True, stdout=sys.stderr, timeout=120)

    def join(self, text: str) -> subprocess.Popen[str]:
        """Start a process there that becomes warm."""
        command = (sys.executable, "-c", JOIN, f"{HEAD}:{PORT}", self.address, text)
        return self.start(*command, stdout=subprocess.PIPE)

    def calls(self, method: str) -> int:
        """Number of calls of one method that its tuner got."""
        notes = "".join(path.read_text() for path in (self.directory / "trace").glob("*.jsonl"))
        return notes.count(f'"{method}"')

    def digest(self) -> str:
        """Digest of the one artifact in its store."""
        from ray_warmup.warmup.store.node_store import NodeStore

        (pointer,) = (self.directory / "root").rglob("current")
        return NodeStore(pointer.parent).read_artifact().digest


def ip(*words: str, enter: Sequence[str] = ()) -> None:
    """Run `ip`."""
    subprocess.run([*enter, "ip", *words], check=True)


def connected(base: Path) -> tuple[Machine, Machine]:
    """Two machines with a cable between them."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    own = os.readlink("/proc/self/ns/net")
    assert wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own, 10), "no second namespace"
    enter = ("nsenter", f"--target={holder.pid}", "--net")
    ip("link", "add", "head", "type", "veth", "peer", "name", "other")
    ip("link", "set", "other", "netns", str(holder.pid))
    for name, address, inside in (("head", HEAD, ()), ("other", OTHER, enter)):
        ip("addr", "add", f"{address}/24", "dev", name, enter=inside)
        ip("link", "set", name, "up", enter=inside)
        ip("link", "set", "lo", "up", enter=inside)
    return Machine(HEAD, base / "a", ()), Machine(OTHER, base / "b", enter)


def cut(other: Machine) -> None:
    """Lose every frame in both directions."""
    for name, peer, enter in (("head", OTHER, ()), ("other", HEAD, other.enter)):
        ip("neigh", "replace", peer, "lladdr", NOBODY, "dev", name, "nud", "permanent", enter=enter)


def heal(other: Machine) -> None:
    """Let frames arrive again."""
    for name, peer, enter in (("head", OTHER, ()), ("other", HEAD, other.enter)):
        ip("neigh", "del", peer, "dev", name, enter=enter)


def request(tokens: int = 2) -> str:
    """One rank of the smallest model, ten tasks, or five for one token."""
    from ray_warmup.configs import parse_config
    from ray_warmup.configs.loader import text_of_config

    document = {
        "cluster": {"world_size": 1, "gpus_per_rank": 0, "backend": "cpu"},
        "model": {"name": "qwen3-0.6b", "dtype": "float32"},
        "autotune": {"max_num_batched_tokens": tokens, "max_num_seqs": tokens},
    }
    return text_of_config(parse_config(document))


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process that joined has said."""
    said = process.communicate(timeout=ANSWERED_S)[0]
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def scenario(base: Path) -> dict[str, Any]:
    """A leader is cut off while it measures, and comes back when its heir is ready."""
    head, other = connected(base)
    head.follows({"task_s": 0.05})
    other.follows({"task_s": 1.0})
    head.ray("--head", f"--port={PORT}", "--include-dashboard=false", f"--system-config={PATIENT}", "--num-cpus=1",
             f"--temp-dir={base / 'ray'}")  # fmt: skip
    other.ray(f"--address={HEAD}:{PORT}", "--num-cpus=1")
    leader = other.join(request())
    assert wait_until(lambda: other.calls("tune") >= 2, 60), "the leader never measured"
    heir = head.join(request())
    assert wait_until(lambda: head.calls("prepare") >= 1, 60), "the heir never began"
    time.sleep(3)  # until it has asked, and waits
    cut(other)
    began = time.monotonic()
    found = answer(heir)
    heir_s = time.monotonic() - began
    is_running = leader.poll() is None
    heal(other)
    began = time.monotonic()
    late = answer(leader)
    return {
        "heir": found,
        "heir_s": heir_s,
        "leader": late,
        "leader_s": time.monotonic() - began,
        "was_running": is_running,
        "stored": [head.digest(), other.digest()],
        "known": known(),
    }


def known() -> list[dict[str, Any]]:
    """What the registry knows after all, told by a process of the head's."""
    import ray

    from ray_warmup.actors.registry.client import registry_status

    ray.init(address=f"{HEAD}:{PORT}", namespace="cut", log_to_driver=False, _node_ip_address=HEAD)
    alive = [row["NodeID"] for row in ray.nodes() if row["Alive"]]
    status = registry_status()
    assert status is not None
    return [{**asdict(row), "alive": len(alive)} for row in status.keys]


if __name__ == "__main__":
    print(json.dumps(scenario(Path(sys.argv[1]))), flush=True)
