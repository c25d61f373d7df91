"""The cache key: ordered, named parts for the environment, the request and the rank's work, hashed together.

Two keys are compared part by part, so that a miss can be explained. `EXCLUDED` names each part that is left out, with
the reason.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.manifest import SCHEMA_VERSION, key_digest

SCHEMA = f"1.{SCHEMA_VERSION}"
"""Raised when the meaning of a part changes, and with the manifest's: versions that cannot read each other's artifacts
look into different stores."""

EXCLUDED: dict[str, str] = {
    "rank": "every rank of a class must find the same table",
    "node": "a table is valid on every node with the same environment",
    "address": "where the cluster listens does not change a kernel",
    "cluster size": "more replicas of the same model run the same kernels",
    "timeouts": "they decide when to give up, not what is chosen",
    "paths": "each node may keep its cache elsewhere",
    "model name": "two names for the same dimensions are the same work",
    "dimensions that travel": "they are the part `model` however they came here",
    "strategy": "it decides who measures, not what is measured; the manifest records it",
    "guard": "an unguarded table is found and guarded, not tuned again; the manifest records it",
    "shortlist, tie band": "how carefully to choose among measured tactics; --retune applies a new setting",
    "op families": "they decide the task list, whose digest is a part",
    "memory limits": "a table says which tasks it has; what it lacks, and fits now, is measured and added",
    "engine kind": "a table of this key is always the built-in engine's; others have an identity of their own",
    "engine warmups": "they compile and load, and decide no tactic; what sm120_decode tunes is part of the artifact",
    "losing a node": "it decides who is left, not what they run",
    "optimization level": "O1 to O3 tune the same; O0 tunes nothing and needs no key",
}


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Named parts in order, and their hash."""

    parts: tuple[tuple[str, str], ...]

    @property
    def sha256(self) -> str:
        """64 hex digits over the ordered parts."""
        return key_digest(self.parts)

    @property
    def flashinfer_version(self) -> str:
        """Return FlashInfer's version."""
        return self.as_dict()["flashinfer_version"]

    @property
    def arch(self) -> str:
        """Return the GPU architectures that FlashInfer compiles for."""
        return self.as_dict()["arch"]

    def as_dict(self) -> dict[str, str]:
        """Name -> value, in order."""
        return dict(self.parts)

    def differences(self, other: dict[str, str]) -> dict[str, tuple[str, str]]:
        """Return the parts that differ from another key: name -> (mine, theirs).

        An absent part counts as empty.
        """
        mine = self.as_dict()
        found = {}
        for name in dict.fromkeys((*mine, *other)):
            pair = (mine.get(name, ""), other.get(name, ""))
            if pair[0] != pair[1]:
                found[name] = pair
        return found


def cache_key(config: WarmupConfig, dims: ModelDims, fingerprint: Fingerprint, tasks_digest: str) -> CacheKey:
    """The key of one rank.

    Args:
        config: what was asked.
        dims: the model's dimensions.
        fingerprint: of the process that runs the kernels.
        tasks_digest: `digest_of_tasks` of what the rank can run with enough memory, so that stages or shards with equal
            work share, and one whose fused MoE is compiled by now does not take the table of one that had to skip it.
    """
    asked = asked_parts(config, dims)
    return CacheKey((("schema", SCHEMA), *fingerprint.parts, *asked, ("tasks", tasks_digest)))


def asked_parts(config: WarmupConfig, dims: ModelDims) -> tuple[tuple[str, str], ...]:
    """Return the parts of the request that can change the choice of a kernel."""
    model, autotune = config.model, config.autotune
    shape = dims.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    return (
        ("model", json.dumps(shape, sort_keys=True)),
        ("tensor_parallel_size", str(model.tensor_parallel_size)),
        ("pipeline_parallel_size", str(model.pipeline_parallel_size)),
        ("expert_parallel_size", str(model.expert_parallel_size)),
        ("dtype", model.dtype),
        ("quantization", model.quantization),
        ("max_num_batched_tokens", str(autotune.max_num_batched_tokens)),
        ("max_num_seqs", str(autotune.max_num_seqs)),
        ("buckets", "default" if autotune.buckets is None else json.dumps(sorted(set(autotune.buckets)))),
        ("skip_ops", json.dumps(sorted(set(autotune.skip_ops)))),
    )


def config_digest(config: WarmupConfig, dims: ModelDims) -> str:
    """32 hex digits over all of a configuration that decides which keys its ranks have in one environment."""
    families = None
    if config.autotune.families is not None:
        families = sorted(set(config.autotune.families))
    asked = (SCHEMA, asked_parts(config, dims), families, config.cluster.backend_beside_gpus)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def single_flight_id(config: WarmupConfig, dims: ModelDims) -> str:
    """16 hex digits that two runs of the same work on the same part of a cluster share (one at a time may run)."""
    cluster = config.cluster
    where = (cluster.backend, cluster.accelerator_type, sorted(cluster.node_labels.items()), cluster.num_ranks)
    asked = (SCHEMA, asked_parts(config, dims), where, config.autotune.strategy == "independent")
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
