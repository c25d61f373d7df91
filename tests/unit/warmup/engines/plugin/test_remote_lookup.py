"""Where an engine looks beyond its node: its cluster's registry, then the remote store, once for each engine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_warmup.warmup.artifact.artifact import Artifact, Content, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED, Manifest, key_digest
from ray_warmup.warmup.disk.shared_lock import shared_lock
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.plugin import ray_connection, remote_lookup
from ray_warmup.warmup.engines.plugin.remote_lookup import AskingEngine, Parts, bring, seconds_to_wait
from ray_warmup.warmup.remote.exchange import share
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.store.node_store import NodeStore

IDENTITY: Parts = (("schema", "2"), ("engine", "vllm"), ("engine_version", "0.33.0"))
START = AskingEngine(IDENTITY, "a1b2c")


def artifact() -> Artifact:
    """What a recorded engine would have left."""
    return pack(
        (Content("deep_gemm", "kernel.gemm/kernel.cubin", b"code"),),
        key=dict(IDENTITY),
        key_sha256=key_digest(IDENTITY),
        fingerprint={"engine_version": "0.33.0"},
        created_at=1.0,
        strategy="recorded",
        guard=UNGUARDED,
    )


def store_in(root: Path) -> NodeStore:
    """The node's store of the identity."""
    return NodeStore(engine_store.store_directory(root, "vllm", "0.33.0", key_digest(IDENTITY)))


def hit(store: NodeStore) -> bool:
    """Whether the store has it."""
    return store.lookup(dict(IDENTITY)).hit


@dataclass
class Registry:
    """A cluster that answers at once; its real counterpart is asked in `tests/cluster/test_engine_registry.py`."""

    reason: str = ""
    asked: list[float] = field(default_factory=list)

    def fetch(self, store: NodeStore, identity: Parts, wait_s: float) -> str:
        """Publish, or miss."""
        self.asked.append(wait_s)
        if not self.reason:
            store.publish(artifact())
        return self.reason

    def offer(self, manifest: Manifest) -> None:
        """Nothing."""


def connect(monkeypatch: pytest.MonkeyPatch, cluster: Registry | None) -> None:
    """Let this process be connected to a cluster, or to none."""
    monkeypatch.setattr(remote_lookup, "connected_cluster", lambda: cluster)


def remote_with(tmp_path: Path) -> str:
    """The URL of a remote store that has the artifact."""
    url = f"file://{tmp_path / 'remote'}"
    share(artifact(), RemoteLocation(url, 5.0), 10.0)
    return url


def test_the_registry_is_asked_before_the_remote_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has is published on the node, and nothing else is asked."""
    registry = Registry()
    connect(monkeypatch, registry)
    monkeypatch.setenv("RAY_WARMUP_REMOTE", "file:///nowhere/at/all")
    assert bring(tmp_path, store_in(tmp_path), START) == ""
    assert hit(store_in(tmp_path))
    assert registry.asked == [0.0]


def test_without_ray_the_remote_store_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the registry has nothing; what failed is in the reason."""
    connect(monkeypatch, None)
    monkeypatch.setenv("RAY_WARMUP_REMOTE", remote_with(tmp_path))
    assert bring(tmp_path / "one", store_in(tmp_path / "one"), START) == ""
    assert hit(store_in(tmp_path / "one"))
    connect(monkeypatch, Registry("the registry knows no artifact of it"))
    assert bring(tmp_path / "two", store_in(tmp_path / "two"), START) == "the registry knows no artifact of it"
    assert hit(store_in(tmp_path / "two"))


@pytest.mark.parametrize("url", ["s3:/bucket", "file://", "somewhere", "s3://key:secret@bucket/a"])
def test_a_wrong_url_is_a_reason(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variable, value and rule are named beside what the registry said; the engine starts its own way."""
    connect(monkeypatch, Registry("the registry knows no artifact of it"))
    monkeypatch.setenv("RAY_WARMUP_REMOTE", url)
    said = bring(tmp_path, store_in(tmp_path), START)
    assert said.startswith("the registry knows no artifact of it; RAY_WARMUP_REMOTE: ")
    assert "must be a URL as s3://" in said or "must hold no credentials" in said


def test_without_either_there_is_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that never heard of a cluster gets no line about it."""
    connect(monkeypatch, None)
    assert bring(tmp_path, store_in(tmp_path), START) == ""
    assert not hit(store_in(tmp_path))


def test_processes_of_one_engine_ask_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miss is a miss for all its ranks; another engine asks again."""
    registry = Registry("nothing")
    connect(monkeypatch, registry)
    store = store_in(tmp_path)
    assert [bring(tmp_path, store, START) for _ in range(3)] == ["nothing", "", ""]
    assert bring(tmp_path, store, AskingEngine(IDENTITY, "another")) == "nothing"
    assert bring(tmp_path, store, START) == ""  # its last rank, after another engine's first one
    assert len(registry.asked) == 2


# Named, because each of the processes that run tests would see another time in the name.
@pytest.mark.parametrize(
    "left",
    [f"{time.time() - 3600:.0f} {START.name}\n", START.name, "soon engine\n\n"],
    ids=["an hour ago", "no time", "no number"],
)
def test_an_engine_of_an_earlier_ones_name_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    """Names are addresses and process numbers, which come again; what is no row counts for nothing."""
    connect(monkeypatch, Registry("nothing"))
    lock = tmp_path / "engine_caches" / "asked" / f"{key_digest(IDENTITY)}.asks.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(left)
    assert bring(tmp_path, store_in(tmp_path), START) == "nothing"
    assert bring(tmp_path, store_in(tmp_path), START) == ""


@pytest.mark.parametrize("patience", ["0", "2"])
def test_an_engine_that_does_not_wait_stands_behind_none_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: str
) -> None:
    """One waits long for a run, with the lock in its hands; the other one of the same node has its answer at once."""
    connect(monkeypatch, Registry("nothing"))
    monkeypatch.setenv("RAY_WARMUP_WAIT", patience)
    held = tmp_path / "engine_caches" / "asked" / f"{key_digest(IDENTITY)}.waits-60.lock"
    with shared_lock(held) as is_held:
        assert is_held
        began = time.monotonic()
        assert bring(tmp_path, store_in(tmp_path), START) == "nothing"
        assert time.monotonic() - began < 5.0


def test_standing_behind_another_engine_counts_as_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines of one node are told to wait for 30 s: the second one's question is shorter by its wait."""
    registry = Registry("nothing")
    connect(monkeypatch, registry)
    monkeypatch.setenv("RAY_WARMUP_WAIT", "30")
    with shared_lock(tmp_path / "engine_caches" / "asked" / f"{key_digest(IDENTITY)}.waits-30.lock"):
        behind = threading.Thread(target=bring, args=(tmp_path, store_in(tmp_path), START))
        behind.start()
        time.sleep(0.5)
    behind.join()
    assert 25.0 < registry.asked[0] <= 29.6


def ask_slowly(root: Path, notes: Path) -> None:
    """One rank, in a process of its own."""

    def fetch(cluster: object, store: NodeStore, identity: Parts, wait_s: float) -> str:
        (notes / str(os.getpid())).touch()
        time.sleep(0.5)
        store.publish(artifact())
        return ""

    remote_lookup.connected_cluster = lambda: SimpleNamespace()  # type: ignore[assignment]
    remote_lookup._from_cluster = fetch  # type: ignore[assignment]
    bring(root, store_in(root), START)
    assert hit(store_in(root)), "a rank went on before the one that asked had its answer"


def test_ranks_wait_for_the_one_that_asks(tmp_path: Path) -> None:
    """Four processes at once: one asks, and all find what it brought."""
    (tmp_path / "notes").mkdir()
    context = get_context("spawn")
    arguments = (tmp_path / "root", tmp_path / "notes")
    ranks = [context.Process(target=ask_slowly, args=arguments) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert len(list((tmp_path / "notes").iterdir())) == 1


def test_an_unsigned_artifact_of_a_remote_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RAY_WARMUP_TRUST=signed nothing of it reaches the node's store."""
    connect(monkeypatch, None)
    monkeypatch.setenv("RAY_WARMUP_REMOTE", remote_with(tmp_path))
    monkeypatch.setenv("RAY_WARMUP_TRUST", "signed")
    assert "has no signature, and cache.trust is signed" in bring(tmp_path, store_in(tmp_path), START)
    assert not (store_in(tmp_path).directory / "current").exists()


def test_a_registry_that_fails_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine never ends because of it."""
    broken = Registry()
    broken.asked = None  # type: ignore[assignment]
    connect(monkeypatch, broken)
    assert "the registry cannot be used: AttributeError" in bring(tmp_path, store_in(tmp_path), START)


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("90", 90.0), ("0.5", 0.5), ("soon", 0.0), ("-1", 0.0)])
def test_waiting_is_asked_for_in_seconds(
    text: str, seconds: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is waited for unless RAY_WARMUP_WAIT says so; a typing error is named."""
    monkeypatch.setenv("RAY_WARMUP_WAIT", text)
    assert seconds_to_wait() == seconds
    assert ("RAY_WARMUP_WAIT" in caplog.text) == (text in ("soon", "-1"))


def test_a_forked_child_has_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent's Ray says that it is initialized, and would never answer there."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))  # type: ignore[arg-type]
    monkeypatch.setattr(ray_connection, "_disconnected", -1)
    assert ray_connection.is_connected()
    ray_connection.note_fork()
    assert not ray_connection.is_connected()


def test_looking_elsewhere_imports_no_ray() -> None:
    """The closure of the plugin's question: neither Ray nor what talks to it, before a process is connected."""
    code = (
        "import sys\n"
        "from ray_warmup.warmup.engines.plugin import remote_lookup\n"
        "assert remote_lookup.connected_cluster() is None\n"
        "print([n for n in sys.modules if n == 'ray' or n.startswith(('ray.', 'ray_warmup.actors'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
