"""Configuration of a run with a real engine: its name and its own arguments. Frozen and free of engine imports.

    cluster: {address: auto, num_nodes: 2, ranks_per_node: 1}
    engine:
      kind: vllm
      args: {model: Qwen/Qwen3-30B-A3B-FP8, tensor_parallel_size: 1, max_num_batched_tokens: 8192}

`args` are those of the engine's own command line, with dashes or underscores. Sizes, dtypes and quantization come from
them: the sections `model` and `autotune` belong to the built-in engine and are refused beside another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import JsonValue, field_validator, model_validator

from ray_warmup.configs.schema import CacheSection, ClusterSection
from ray_warmup.configs.section import Seconds, Section

EngineName = Literal["builtin", "vllm"]
ENGINES: tuple[EngineName, ...] = ("builtin", "vllm")
OURS: dict[str, str] = {
    "load_format": "engine.weights says it",
    "distributed_executor_backend": "the run chooses it",
    "host": "no server is started",
    "port": "no server is started",
    "uds": "no server is started",
    "api_server_count": "no server is started",
    "skip_tokenizer_init": "trial requests are token ids",
}
"""Arguments that a run sets itself, each with the reason."""
SECRET = re.compile(r"(.*_)?(token|api_key|password|secret)")
"""Names of arguments that are in no report, key or index; `tokenizer` and `max_num_batched_tokens` are none.

A start's own request file, in a private temporary directory, has them.
"""
NOT_COVERED: dict[str, str] = {
    "data_parallel_size": "data parallel replicas are",
    "enable_lora": "LoRA is",
    "lora_modules": "LoRA is",
    "speculative_config": "speculative decoding is",
    "limit_mm_per_prompt": "multimodal models are",
    "kv_transfer_config": "KV transfer is",
}
"""Arguments whose kernels a recording would miss, each with what it asks for."""
SERVERS: tuple[str, ...] = (
    "api_key",
    "chat_template",
    "enable_auto_tool_choice",
    "tool_call_parser",
    "root_path",
    "middleware",
    "ssl_keyfile",
    "ssl_certfile",
    "allowed_origins",
    "response_role",
)
"""Arguments of vLLM's HTTP server, which no start of ours has."""


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
    start_deadline: Seconds = 3600
    """Seconds that one start may take."""

    @field_validator("args", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        """Take `--max-num-seqs`, `max-num-seqs` and `max_num_seqs` for one argument."""
        if not isinstance(value, Mapping):
            return value
        spelled: dict[str, JsonValue] = {}
        for name, argument in value.items():
            plain = str(name).lstrip("-").replace("-", "_")
            if plain in spelled:
                raise ValueError(f"{plain} is given twice")
            spelled[plain] = argument
        return spelled

    @model_validator(mode="after")
    def _arguments_of_the_user_alone(self) -> Self:
        if not isinstance(self.args.get("model"), str) or not self.args["model"]:
            raise ValueError("args.model: missing; give a directory with a config.json, or a name that nodes resolve")
        for name, reason in OURS.items():
            if name in self.args:
                raise ValueError(f"args.{name}: {reason}; leave it out")
        for name, what in NOT_COVERED.items():
            value = self.args.get(name)
            is_default = value is None or value is False or (name == "data_parallel_size" and value == 1)
            if not is_default:
                raise ValueError(f"args.{name}: {what} not covered yet; leave it out, or start the engine without us")
        for name in SERVERS:
            if name in self.args:
                raise ValueError(f"args.{name}: belongs to the HTTP server, which is not started; leave it out")
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
        return {name: value for name, value in self.args.items() if not SECRET.fullmatch(name)}

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
    installing: Seconds = 300
    """Packing, sending and publishing one artifact."""
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
