"""Configuration of a run with a real engine: its name and its own arguments. Frozen and free of engine imports.

    cluster: {address: auto, num_nodes: 2, ranks_per_node: 1}
    engine:
      kind: vllm
      args: {model: Qwen/Qwen3-30B-A3B-FP8, tensor_parallel_size: 1, max_num_batched_tokens: 8192}

`args` are the arguments of the engine's own command line, with dashes or underscores. They hold the sizes, dtypes and
quantization. The sections `model` and `autotune` are for the built-in engine only, so a config with another engine may
not have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import JsonValue, field_validator, model_validator

from ray_warmup.configs.engine_arguments import one_spelling, refusals, secrets_of, without_secrets
from ray_warmup.configs.schema import CacheSection, ClusterSection
from ray_warmup.configs.section import Seconds, Section

EngineName = Literal["builtin", "vllm"]
ENGINES: tuple[EngineName, ...] = ("builtin", "vllm")


class VllmSection(Section):
    """A vLLM that is started, with random weights unless told otherwise, recorded, and proven."""

    kind: Literal["vllm"]
    """Name of the engine."""
    args: dict[str, JsonValue]
    """Arguments of `vllm serve`, the model as `model`; dashes or underscores."""
    usage: Literal["serve", "llm"] = "serve"
    """Whose defaults hold for arguments that are not given: those of the server, or of `LLM(...)`."""
    weights: Literal["dummy", "real"] = "dummy"
    """`dummy`: random weights, nothing is downloaded but the model's configuration."""
    lm_head: Literal["read", "tied", "own"] = "read"
    """Where config.json ties the word embeddings: `read` whether the checkpoint has an `lm_head` of its own from its
    safetensors headers; `tied` or `own` says it where there are none."""
    start_deadline: Seconds = 3600
    """Seconds that one start may take."""
    tuning: Literal["auto", "off"] = "auto"
    """`auto`: what the engine asks FlashInfer for is tuned and guarded while it is recorded."""
    task_deadline: Seconds = 300
    """Seconds that one recorded request may take at one size; a tactic that takes longer is quarantined."""
    proof: Literal["node", "class", "off"] = "node"
    """Starts that prove the artifact: one on every node without a valid proof, one per kind of device, or none."""
    executor: Literal["own", "ray"] = "own"
    """Workers of an engine: `own` are its children, as `uni` and `mp` make them; `ray` are Ray actors."""

    @field_validator("args", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        """Take `--max-num-seqs`, `max-num-seqs` and `max_num_seqs` for one argument."""
        if isinstance(value, Mapping):
            return one_spelling(value)
        return value

    @model_validator(mode="after")
    def _arguments_of_the_user_alone(self) -> Self:
        if not isinstance(self.args.get("model"), str) or not self.args["model"]:
            raise ValueError("args.model: missing; give a directory with a config.json, or a name that nodes resolve")
        found = refusals(self.args)
        if found:
            raise ValueError("; ".join(found))
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            size = self.args.get(name, 1)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"args.{name}: {size!r}: must be a whole number of at least 1")
        return self

    @property
    def ranks_per_replica(self) -> int:
        """GPUs of one replica: tensor times pipeline parallel size."""
        return self._size("tensor_parallel_size") * self._size("pipeline_parallel_size")

    @property
    def shown_args(self) -> dict[str, JsonValue]:
        """The arguments without what is secret, for reports and keys."""
        shown: dict[str, JsonValue] = without_secrets(self.args)
        return shown

    @property
    def secrets(self) -> frozenset[str]:
        """The texts that may be in no report, key or log."""
        return secrets_of(self.args)

    def _size(self, name: str) -> int:
        size = self.args.get(name, 1)
        assert isinstance(size, int), "checked when it was read"
        return size


class EngineTimeoutsSection(Section):
    """Seconds."""

    placing: Seconds = 300
    """Waiting for the placement group."""
    probing: Seconds = 300
    """Imports of the launchers, and a look at each node."""
    capturing: Seconds = 600
    """Ending the recorded engine, and packing what its caches hold."""
    pushing: Seconds = 300
    """Reading one artifact, and taking it over into the object store."""
    installing: Seconds = 300
    """Checking and publishing one artifact on another node."""
    heartbeat: Seconds = 2
    """Between two questions for what a launcher does."""
    silence: Seconds = 120
    """A launcher without a heartbeat for so long is given up."""
    single_flight: Seconds = 7200
    """Waiting for another run of the same request."""


class EngineRunConfig(Section):
    """One warmup run of a real engine."""

    cluster: ClusterSection
    """Cluster of the replicas."""
    engine: VllmSection
    """The engine, and its start."""
    cache: CacheSection = CacheSection()
    """Caches for the results."""
    timeouts: EngineTimeoutsSection = EngineTimeoutsSection()
    """Deadlines of the run; `engine.start_deadline` is that of one start."""

    @model_validator(mode="after")
    def _ranks_are_whole_replicas(self) -> Self:
        per_replica = self.engine.ranks_per_replica
        if self.cluster.num_ranks % per_replica:
            raise ValueError(
                f"engine.args: {per_replica} ranks of a replica (tensor times pipeline parallel size) must divide the "
                f"{self.cluster.num_ranks} ranks of cluster"
            )
        per_node = self.cluster.ranks_per_node
        if per_node is not None and per_node % per_replica:
            raise ValueError(
                f"engine.args: a replica of {per_replica} ranks over nodes of {per_node} ranks is not covered yet; "
                "give cluster.ranks_per_node a multiple of tensor times pipeline parallel size"
            )
        return self
