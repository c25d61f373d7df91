"""Artifacts as a recorded engine leaves them, without starting one: identity, kinds, record."""

from __future__ import annotations

import json
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Artifact, Content, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED, key_digest
from ray_warmup.warmup.engines.artifacts.engine_store import RECORD_NAME, RecordedFacts, record_text, store_directory
from ray_warmup.warmup.store.node_store import NodeStore

VERSION = "0.33.0"
REQUEST = "ab" * 32


def parts(**settings: str) -> tuple[tuple[str, str], ...]:
    """The identity of a start with these settings."""
    return (("engine", "vllm"), ("engine_version", VERSION), *sorted(settings.items()))


def artifact(
    *, created_at: float = 1.0, request: str = REQUEST, strategy: str = "recorded", **settings: str
) -> Artifact:
    """An artifact with an entry of several kinds."""
    identity = parts(**settings)
    facts = RecordedFacts(request, {"model": "m"}, {"scheduler_config.max_num_seqs": "4"}, {"VLLM_X": "1"})
    contents = [
        Content("torch_compile", "tag/any_device/rank_0_0/model", b"compiled"),
        Content("inductor", "tag/inductor_cache/ab/cab.so", b"library"),
        Content("deep_gemm", "kernel.a/kernel.cubin", b"cubin"),
        Content("triton_cache", "AB/__grp__k.json", json.dumps({"child_paths": {"k.cubin": "k.cubin"}}).encode()),
        Content("triton_cache", "AB/k.cubin", b"k"),
        Content("modelinfos", "m-M.json", b'{"hash": "h", "modelinfo": {}}'),
        Content("engine_record", RECORD_NAME, record_text(facts)),
    ]
    return pack(
        contents,
        key=dict(identity),
        key_sha256=key_digest(identity),
        fingerprint={"engine_version": VERSION},
        created_at=created_at,
        strategy=strategy,
        guard=UNGUARDED,
    )


def stored(root: Path, **settings: str) -> NodeStore:
    """A node's store with one such artifact."""
    made = artifact(**settings)
    store = NodeStore(store_directory(root, "vllm", VERSION, made.manifest.key.sha256))
    store.publish(made)
    return store
