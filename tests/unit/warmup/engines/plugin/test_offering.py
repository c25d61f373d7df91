"""What an engine compiled after a miss: kept on its node, given to nobody before a proof start has used it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.engines.artifacts.engine_store import OFFERED
from ray_warmup.warmup.engines.artifacts.export_rule import may_leave
from ray_warmup.warmup.engines.artifacts.proof_record import ProofRecord, save_proof
from ray_warmup.warmup.engines.identity.identity import Identity
from ray_warmup.warmup.engines.launcher.proof import prove
from ray_warmup.warmup.engines.plugin.offering import Offer
from ray_warmup.warmup.store.node_store import NodeStore
from tests.engines.fake_engine import environment

ENGINE = """
import threading, vllm
from ray_warmup.warmup.engines.plugin import remote_lookup

class Cluster:
    def fetch(self, store, identity, wait_s): return "the registry knows no artifact of it"
    def wants_offers(self): return True
    def offer(self, manifest): print("offered", manifest.digest)

remote_lookup.connected_cluster = lambda: CLUSTER
vllm.LLM(load_format="dummy", skip_tokenizer_init=True, model="/models/fake", max_num_batched_tokens=96)
for thread in threading.enumerate():
    if thread.name == "ray-warmup offer":
        thread.join(30)
"""
"""An engine that serves, in a process that is connected to a cluster with a registry."""


def start(environ: dict[str, str], cluster: str = "Cluster()") -> subprocess.CompletedProcess[str]:
    """Run an engine to its end."""
    code = ENGINE.replace("CLUSTER", cluster)
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)


def stored(root: Path) -> list[tuple[NodeStore, Manifest]]:
    """Every artifact of a node."""
    stores = [NodeStore(pointer.parent) for pointer in root.rglob("current")]
    return [(store, store.current()[1]) for store in stores]


def paths(manifest: Manifest) -> set[str]:
    """What it carries."""
    return {f"{blob.kind}/{blob.path.rpartition('/')[2]}" for blob in manifest.blobs if blob.kind != "engine_record"}


def test_an_artifact_that_nobody_recorded_needs_a_proof(tmp_path: Path) -> None:
    """It lies on the node and leaves it only after a proof start in another home; then engines get it."""
    environ = environment(tmp_path, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"))
    first = start(environ)
    assert first.returncode == 0, first.stderr
    ((store, manifest),) = stored(tmp_path / "root")
    assert first.stdout.split() == ["offered", manifest.digest]
    assert manifest.strategy == OFFERED
    assert paths(manifest) == {
        *("torch_compile/model", "inductor/cab.so", "inductor/ccd.so", "inductor_home/cef.so"),
        *("deep_gemm/kernel.cubin", "deep_gemm/meta.json", "modelinfos/fake_model-FakeForCausalLM.json"),
    }
    assert not may_leave(store.directory, manifest)
    another = {"HOME": str(tmp_path / "another"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "another" / "inductor")}
    elsewhere = environ | another | {"RAY_WARMUP": "require"}
    refused = start(elsewhere)
    assert refused.returncode != 0
    assert "no proof start has used it yet" in refused.stderr

    section = VllmSection(kind="vllm", args={"model": "/models/fake"}, start_deadline=60)
    proof = prove(section, CacheSection(root=str(tmp_path / "root")), environ)
    assert proof.problems == ()
    save_proof(store.directory, ProofRecord(manifest.digest, "vllm 0.33.0", "cpu", "", 1.0, 1.0, 1.0))
    assert may_leave(store.directory, manifest)
    assert start(elsewhere).returncode == 0


def test_only_new_entries_are_offered(tmp_path: Path) -> None:
    """A kernel that the engine found in its home is not its own work; the proof of what is left then fails."""
    environ = environment(tmp_path)
    old = tmp_path / "home" / ".cache" / "vllm" / "deep_gemm" / "cache" / "kernel.gemm"
    old.mkdir(parents=True)
    for name in ("kernel.cubin", "meta.json", ".committed"):
        (old / name).write_text("somebody else's")
    assert start(environ).returncode == 0
    ((_, manifest),) = stored(tmp_path / "root")
    assert not any(path.startswith("deep_gemm") for path in paths(manifest))
    again = start(environ)
    assert (again.returncode, again.stdout) == (0, "")  # nothing of it is new


def test_what_an_engine_of_the_same_name_left_half_done_counts_for_nothing(tmp_path: Path) -> None:
    """A rank of it was warm, another one was not. The next engine of that name waits for both of its own ranks."""

    def rank(number: int) -> Offer:
        identity = Identity((("engine", "vllm"), ("engine_version", "0.33.0")))
        place = tmp_path / "triton"
        return Offer(tmp_path / "root", "10.0.0.1-30000", 2, number, identity, {}, {}, place)

    left = rank(1)
    left.begin()
    left.hand_in()
    ranks = [rank(0), rank(1)]
    for one in ranks:
        one.begin()
    ranks[0].hand_in()
    waiting = [path.name for path in (tmp_path / "root" / "engine_caches" / "offers").rglob("rank_*.json")]
    assert waiting == ["rank_0.json"]


@pytest.mark.parametrize("cluster", ["None", "type('Quiet', (Cluster,), {'wants_offers': lambda self: False})()"])
def test_nothing_is_kept_for_nobody(tmp_path: Path, cluster: str) -> None:
    """Without Ray, or without a registry, an engine's caches are its own."""
    assert start(environment(tmp_path), cluster).returncode == 0
    assert stored(tmp_path / "root") == []


def test_nothing_unsigned_is_offered(tmp_path: Path) -> None:
    """Signatures are required and this node has no key: nothing is written, and the engine serves."""
    done = start(environment(tmp_path, RAY_WARMUP_TRUST="signed"))
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "root") == []
