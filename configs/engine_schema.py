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

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from ray_warmup.configs.engine_arguments import ArgumentRules, secrets_of, without_secrets
from ray_warmup.configs.schema import CacheSection, ClusterSection
from ray_warmup.configs.section import OFF, Seconds, Section
from ray_warmup.configs.sglang_arguments import SGLANG_ARGUMENTS
from ray_warmup.configs.vllm_arguments import VLLM_ARGUMENTS

EngineName = Literal["builtin", "vllm", "sglang"]
ENGINES: tuple[EngineName, ...] = ("builtin", "vllm", "sglang")
ARGUMENT_RULES: dict[str, ArgumentRules] = {"vllm": VLLM_ARGUMENTS, "sglang": SGLANG_ARGUMENTS}
"""Rules for the arguments of each real engine."""


class RealEngineSection(Section):
    """A real engine that is started, with random weights unless told otherwise, recorded, and proven."""

    kind: str
    """Name of the engine."""
    args: dict[str, JsonValue]
    """Arguments of the engine's own command line; dashes or underscores."""
    weights: Literal["dummy", "real"] = "dummy"
    """`dummy`: random weights, nothing is downloaded but the model's configuration."""
    start_deadline: Seconds = 3600
    """Seconds that one start may take."""
    tuning: Annotated[Literal["auto", "off"], OFF] = "auto"
    """`auto`: what the engine asks FlashInfer for is tuned and guarded while it is recorded."""
    task_deadline: Seconds = 300
    """Seconds that one recorded request may take at one size; a tactic that takes longer is quarantined."""
    proof: Annotated[Literal["node", "class", "off"], OFF] = "node"
    """Starts that prove the artifact: one on every node without a valid proof, one per kind of device, or none."""

    rules: ClassVar[ArgumentRules]
    """Rules for its arguments."""
    model_argument: ClassVar[str]
    """Name of the argument that names the model."""
    size_arguments: ClassVar[tuple[str, ...]]
    """Names of the arguments whose product is the number of GPUs of one replica."""

    @field_validator("args", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        """Take `--max-num-seqs`, `max-num-seqs` and `max_num_seqs` for one argument."""
        if isinstance(value, Mapping):
            return cls.rules.one_spelling(value)
        return value

    @model_validator(mode="after")
    def _arguments_of_the_user_alone(self) -> Self:
        model = self.model_argument
        if not isinstance(self.args.get(model), str) or not self.args[model]:
            raise ValueError(
                f"args.{model}: missing; give a directory with a config.json, or a name that nodes resolve"
            )
        found = self.rules.refusals(self.args)
        if found:
            raise ValueError("; ".join(found))
        for name in self.size_arguments:
            size = self.args.get(name, 1)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"args.{name}: {size!r}: must be a whole number of at least 1")
        return self

    @property
    def model(self) -> str:
        """The model's directory or name."""
        return str(self.args[self.model_argument])

    @property
    def ranks_per_replica(self) -> int:
        """GPUs of one replica."""
        ranks = 1
        for name in self.size_arguments:
            size = self.args.get(name, 1)
            assert isinstance(size, int), "checked when it was read"
            ranks *= size
        return ranks

    @property
    def load_format(self) -> str:
        """The engine's name for the weights that are asked for."""
        if self.weights == "dummy":
            return "dummy"
        return "auto"

    @property
    def shown_args(self) -> dict[str, JsonValue]:
        """The arguments without what is secret, for reports and keys."""
        shown: dict[str, JsonValue] = without_secrets(self.args)
        return shown

    @property
    def secrets(self) -> frozenset[str]:
        """The texts that may be in no report, key or log."""
        return secrets_of(self.args)

    @property
    @abstractmethod
    def workers(self) -> Literal["own", "ray"]:
        """Processes that run the model: the engine's children, or Ray actors."""

    @property
    @abstractmethod
    def start_options(self) -> dict[str, str]:
        """Settings of a start besides its arguments, by name."""

    @property
    @abstractmethod
    def resolved_as(self) -> tuple[str, ...]:
        """Words of the request that change what its arguments resolve to."""


class VllmSection(RealEngineSection):
    """A vLLM."""

    kind: Literal["vllm"]
    """Name of the engine."""
    args: dict[str, JsonValue]
    """Arguments of `vllm serve`, the model as `model`; dashes or underscores."""
    usage: Literal["serve", "llm"] = "serve"
    """Whose defaults hold for arguments that are not given: those of the server, or of `LLM(...)`."""
    lm_head: Literal["read", "tied", "own"] = "read"
    """Where config.json ties the word embeddings: `read` whether the checkpoint has an `lm_head` of its own from its
    safetensors headers; `tied` or `own` says it where there are none."""
    executor: Literal["own", "ray"] = "own"
    """Workers of an engine: `own` are its children, as `uni` and `mp` make them; `ray` are Ray actors."""

    rules = VLLM_ARGUMENTS
    model_argument = "model"
    size_arguments = ("tensor_parallel_size", "pipeline_parallel_size")

    @property
    def workers(self) -> Literal["own", "ray"]:
        """As `executor` says."""
        return self.executor

    @property
    def start_options(self) -> dict[str, str]:
        """Whose defaults hold, and whether the checkpoint has an `lm_head`."""
        return {"usage": self.usage, "lm_head": self.lm_head}

    @property
    def resolved_as(self) -> tuple[str, ...]:
        """Usage, and the head where it is not read."""
        if self.lm_head == "read":
            return (self.usage,)
        return (self.usage, self.lm_head)


class SglangSection(RealEngineSection):
    """An SGLang."""

    kind: Literal["sglang"]
    """Name of the engine."""
    args: dict[str, JsonValue]
    """Arguments of `sglang serve`, the model as `model_path` or `model`; dashes or underscores."""

    rules = SGLANG_ARGUMENTS
    model_argument = "model_path"
    size_arguments = ("tp_size",)

    @property
    def workers(self) -> Literal["own", "ray"]:
        """Always its children: its Ray engine is not covered."""
        return "own"

    @property
    def start_options(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def resolved_as(self) -> tuple[str, ...]:
        """None: the arguments alone decide."""
        return ()


class EngineTimeoutsSection(Section):
    """Seconds."""

    placing: Seconds = 300
    """Waiting for the placement group."""
    nodes: Seconds | None = None
    """Waiting for nodes that have not joined yet; `placing` begins when they are there. None: `placing` is for both."""
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

    @property
    def until_placed(self) -> float:
        """Return the seconds until the ranks have their places."""
        return self.placing + (self.nodes or 0.0)


class EngineRunConfig(Section):
    """One warmup run of a real engine."""

    cluster: ClusterSection
    """Cluster of the replicas."""
    engine: Annotated[VllmSection | SglangSection, Field(discriminator="kind")]
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
