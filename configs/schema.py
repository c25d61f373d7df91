"""Frozen sections of a run's configuration, each field documented below it. Imports neither Ray nor torch.

`WarmupConfig` describes one run. A later step resolves values that depend on the cluster (`auto`, world size from
nodes) without changing the configuration.
"""

from __future__ import annotations

import logging
from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ray_warmup.configs.cache_section import CacheSection as CacheSection
from ray_warmup.configs.engine_warmups import EngineWarmupName
from ray_warmup.configs.errors import shown
from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.section import OFF, Number, Seconds, Section, Whole, Width

OptimizationLevel = Literal["O0", "O1", "O2", "O3"]
Strategy = Literal["auto", "leader", "sharded", "consensus", "independent"]
Backend = Literal["auto", "cuda", "cpu"]
OnNodeLoss = Literal["fail", "shrink", "replace"]
OpFamily = Literal["gemm", "fused_moe", "attention", "norm", "rope", "sampling"]
MAX_RANKS = 1 << 16
FEWEST_ROUNDS = 7
"""Interleaved rounds below which scatter cannot be told from a gain."""

logger = logging.getLogger(__name__)


class ClusterSection(Section):
    """Cluster, number and placement of the ranks."""

    address: str | None = None
    """Ray address: `auto`, `host:port` or `ray://host:port`; unset: `$RAY_ADDRESS`, else Ray is started here."""
    simulated_nodes: Whole = Field(default=0, ge=0, le=64)
    """Start this many Ray nodes on this machine, each with a cache directory of its own; for trying things out."""
    num_nodes: Whole | None = Field(default=None, ge=1, le=MAX_RANKS)
    """Nodes to spread over; only together with `ranks_per_node`."""
    ranks_per_node: Whole | None = Field(default=None, ge=1, le=1024)
    """Ranks on each of `num_nodes` nodes (default 1 node). Give this or `world_size`, not both."""
    world_size: Whole | None = Field(default=None, ge=1, le=MAX_RANKS)
    """Ranks in all, wherever they fit. Give this or `ranks_per_node`, not both."""
    gpus_per_rank: Number = Field(default=1.0, ge=0, le=8)
    """GPUs of one rank; a fraction shares one GPU between ranks. Ignored with `backend: cpu`."""
    cpus_per_rank: Number = Field(default=1.0, ge=0, le=4096)
    """CPUs of one rank; compilation uses as many jobs."""
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Ray's placement group strategy, with `world_size`. With `ranks_per_node` nodes are chosen by free resources."""
    accelerator_type: str | None = None
    """Only nodes with this `ray.io/accelerator-type` label, for example `H200`."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Only nodes with these Ray labels."""
    backend: Backend = "auto"
    """`cuda`, `cpu`, or `auto`: cuda where GPUs are asked for (`gpus_per_rank`), which are waited for, else cpu."""
    on_node_loss: OnNodeLoss = "fail"
    """`fail`: a lost node ends the run. `shrink`: the run goes on without its ranks. `replace`: its ranks start again
    on other nodes with room, under their old numbers."""

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if (self.world_size is None) == (self.ranks_per_node is None):
            raise ValueError(
                f"give exactly one of world_size (is {self.world_size}) and ranks_per_node (is {self.ranks_per_node})"
            )
        if self.num_nodes is not None and self.ranks_per_node is None:
            raise ValueError(f"num_nodes (is {self.num_nodes}) needs ranks_per_node")
        return self

    @property
    def num_ranks(self) -> int:
        """World size that was asked for."""
        return self.world_size or (self.ranks_per_node or 1) * (self.num_nodes or 1)

    @property
    def backend_beside_gpus(self) -> Literal["cuda", "cpu"]:
        """Return the backend, with `auto` resolved to cpu only if no GPU is requested."""
        if self.backend == "auto":
            if self.gpus_per_rank > 0:
                return "cuda"
            return "cpu"
        return self.backend


class ModelSection(Section):
    """Whose kernel shapes are warmed."""

    name: str
    """A preset of `configs/models/` or the path of a Hugging Face `config.json`."""
    tensor_parallel_size: Whole = Field(default=1, ge=1, le=MAX_RANKS)
    """Ranks that share each layer's GEMMs."""
    pipeline_parallel_size: Whole = Field(default=1, ge=1, le=MAX_RANKS)
    """Stages that share the layers."""
    expert_parallel_size: Whole = Field(default=1, ge=1, le=MAX_RANKS)
    """Shards that share the experts."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Activation dtype. The cpu backend always measures float32."""
    quantization: Literal["none", "fp8"] = "none"
    """`fp8`: the dense GEMMs run as fp8 (e4m3)."""
    dimensions: ModelDims | None = None
    """Dimensions read from `name` by the asking process, so that no other process opens the path."""

    @model_validator(mode="after")
    def _dimensions_are_of_the_name(self) -> Self:
        """Refuse dimensions of another model, for example left from an earlier run's report."""
        path, dims = PurePath(self.name), self.dimensions
        if dims is not None and dims.name not in (path.name, path.stem, path.parent.name):
            raise ValueError(
                f"model.name: {shown(self.name)}: model.dimensions are those of {shown(dims.name)}: leave them out"
            )
        return self


class AutotuneSection(Section):
    """Selection and limits of the measurements."""

    optimization_level: OptimizationLevel = "O2"
    """O0 switches tuning off, O1, O2 and O3 switch it on."""
    enabled: bool | None = None
    """Explicit switch; wins over the level when given."""
    strategy: Strategy = "auto"
    """`leader`: one rank of a class measures. `sharded`: all ranks share the tasks. `consensus`: several ranks measure
    the same short list. `independent`: every rank for itself. `auto`: sharded for two or more GPUs, else leader."""
    max_num_batched_tokens: Whole = Field(default=8192, ge=1, le=1 << 20)
    """Largest number of tokens in one step; tuned up to it."""
    max_num_seqs: Whole = Field(default=256, ge=1, le=1 << 16)
    """Largest number of sequences in one step; bounds the LM head and sampling."""
    buckets: tuple[Width, ...] | None = None
    """Tune only these of the op's own buckets; others would never hit in serving and are refused."""
    skip_ops: tuple[str, ...] = ()
    """FlashInfer ops that keep their default tactic, for example `fp4_gemm`."""
    families: tuple[OpFamily, ...] | None = None
    """Warm only these families of ops; unset: all that the model makes."""
    shortlist: Whole = Field(default=16, ge=1, le=64)
    """Fastest candidates kept per task for the guard."""
    tie_band: Number = Field(default=0.01, ge=0, lt=1)
    """Candidates within this share of the fastest count as equal; a fixed order decides."""
    consensus_ranks: Whole = Field(default=3, ge=2, le=MAX_RANKS)
    """Ranks that measure the same short list under `consensus`."""
    max_memory_bytes: Whole | None = Field(default=None, ge=1 << 20, le=1 << 50)
    """Device memory that tuning may use; the largest bucket shrinks to fit."""
    max_memory_share: Number = Field(default=0.9, gt=0, le=1)
    """Device memory for tuning as a share of the free memory when tuning starts."""

    @property
    def is_enabled(self) -> bool:
        """The level's default unless the explicit switch is given."""
        if self.enabled is not None:
            return self.enabled
        return self.optimization_level != "O0"


class GuardSection(Section):
    """Rules by which a winner must beat the default tactic."""

    enabled: bool = True
    """Off: tables are published unguarded and say so."""
    margin: Number = Field(default=0.02, ge=0, lt=1)
    """A winner must be faster than the default by this share."""
    rounds: Whole = Field(default=15, ge=3, le=101)
    """Interleaved rounds of default and candidate; fewer than `FEWEST_ROUNDS` are raised to it with a warning."""
    judges: Whole = Field(default=2, ge=1, le=8)
    """Devices of a class on each of which a tactic must win before it is published; as many as there are, if fewer."""

    @field_validator("rounds")
    @classmethod
    def _prove_something(cls, rounds: int) -> int:
        if rounds >= FEWEST_ROUNDS:
            return rounds
        text = "guard.rounds: %d is raised to %d, fewer rounds prove nothing -> set guard.rounds to at least that"
        logger.warning(text, rounds, FEWEST_ROUNDS)
        return FEWEST_ROUNDS


class EngineSection(Section):
    """Start-up warmups of a serving engine, run on a built-in model runner with random weights."""

    kind: Literal["builtin"] = "builtin"
    """The built-in engine; `configs/engine_schema.py` has the sections of the others."""
    enabled: bool | None = None
    """Explicit switch; unset: on a GPU. On the cpu backend an engine compiles nothing, so it runs there when asked."""
    disabled: tuple[EngineWarmupName, ...] = ()
    """Warmups that do not run."""
    required: tuple[EngineWarmupName, ...] = ("slot_mapping", "prefill_decode", "sparse_mla")
    """Warmups whose failure fails their rank; the failure of any other is a warning."""
    deadlines: dict[EngineWarmupName, Seconds] = Field(default_factory=dict)
    """Seconds by warmup. Unset: sm120_decode 1800, slot_mapping 120, any other 600."""
    num_layers: Whole = Field(default=2, ge=1, le=256)
    """Decoder layers of the runner; layers of one kind share their kernels."""
    block_sizes: tuple[Width, ...] = Field(default=(16,), min_length=1)
    """Tokens per KV block, one for each KV cache group."""
    kv_blocks: Whole | None = Field(default=None, ge=1, le=1 << 31)
    """KV blocks of the runner; unset: as many as its requests need."""
    max_model_len: Whole | None = Field(default=None, ge=2, le=1 << 24)
    """Longest sequence; unset: `autotune.max_num_batched_tokens` and 64 more."""
    capture_sizes: tuple[Width, ...] | None = Field(default=None, min_length=1)
    """Requests in the decode steps that the engine captures as CUDA graphs; unset: powers of two up to
    `autotune.max_num_seqs`."""
    slot_mapping_for_any: bool = False
    """Warm slot mapping by itself for models without a sparse-MLA backend, too."""
    slot_mapping_tokens: tuple[Width, ...] = (*range(1, 17), 32, 64, 128, 256, 512)
    """Numbers of tokens at which slot mapping is warmed, as far as a step may have them."""
    sparse_mla: bool = True
    """Warm the attention of sparse-MLA models."""
    sparse_mla_backends: tuple[str, ...] = ("V4_FLASHMLA_SPARSE", "DEEPSEEK_SPARSE_SWA")
    """Attention backends that make a model one of those."""
    sparse_mla_mixed_tokens: Width = 16
    """Tokens of their mixed step of decodes and a prefill."""
    sparse_mla_prefill_tokens: Width = 1024
    """Tokens of their largest prefill chunk, warmed without and with context."""
    top_k_widths: tuple[Width, ...] = (1, 8, 64, 1024)
    """Widths of top-k sampling that requests ask for."""
    logprob_widths: tuple[Annotated[int, Field(ge=0, le=1 << 24)], ...] = (0, 1, 5, 20)
    """Numbers of log probabilities that requests ask for."""
    monitor: Annotated[Literal["off", "warn", "raise"], OFF] = "warn"
    """What a compilation after the warmups is, in the requests that check them: not counted, a warning, or an error."""
    verify_requests: Whole = Field(default=16, ge=0, le=4096)
    """Random requests that check, after the warmups, that nothing is left to compile."""


MAX_SILENCE_S = 30.0
PHASES_WITH_DEADLINE = (
    "probing",
    "lookup",
    "compiling",
    "tuning",
    "guarding",
    "pushing",
    "installing",
    "loading",
    "replaying",
)
"""Phases in which ranks work; PLACING waits for a cluster."""


class TimeoutsSection(Section):
    """Deadlines in seconds, one per phase and one per task."""

    placing: Seconds = 300
    """Waiting for the placement group and the rank actors."""
    nodes: Seconds | None = None
    """Waiting for nodes that have not joined yet; `placing` begins when they are there. None: `placing` is for both."""
    probing: Seconds = 300
    """Imports and fingerprints of all ranks."""
    lookup: Seconds = 60
    """Reading the node stores."""
    compiling: Seconds = 3600
    """Building the modules that a node lacks."""
    tuning: Seconds = 3600
    """All tasks of all classes."""
    guarding: Seconds = 1800
    """Measuring winners against the default."""
    pushing: Seconds = 300
    """Packing, with a process that loads the table and warms an engine, and the object store."""
    installing: Seconds = 120
    """One writer per directory publishes."""
    loading: Seconds = 300
    """Every rank loads and looks every task up."""
    replaying: Seconds = 900
    """Every rank runs every task once, and its engine warmups."""
    task: Seconds = 300
    """One task of TUNING or GUARDING."""
    single_flight: Seconds = 7200
    """Waiting for another run of the same key."""
    heartbeat: Seconds = 2
    """Interval of the ranks' heartbeats; longer with more than 400 ranks, never more than a third of `silence`."""
    silence: Seconds = MAX_SILENCE_S
    """A process that does not beat for so long is killed and replaced. Shorter than every phase's deadline, so that its
    work can be done again within it; where nothing is said, at most half of the shortest one, and of `task`."""

    @property
    def until_placed(self) -> float:
        """Return the seconds until the ranks have their places."""
        return self.placing + (self.nodes or 0.0)

    @model_validator(mode="before")
    @classmethod
    def _silence_fits(cls, values: object) -> object:
        """The default follows the deadlines that were given."""
        if not isinstance(values, dict) or "silence" in values:
            return values
        given = [values.get(name, cls.model_fields[name].default) for name in (*PHASES_WITH_DEADLINE, "task")]
        numbers = [float(value) for value in given if isinstance(value, int | float) and value > 0]
        return {**values, "silence": min(MAX_SILENCE_S, *(number / 2 for number in numbers))}

    @model_validator(mode="after")
    def _silence_is_noticed_in_time(self) -> Self:
        name, limit = min(((name, getattr(self, name)) for name in PHASES_WITH_DEADLINE), key=lambda pair: pair[1])
        if self.silence >= limit:
            raise ValueError(
                f"silence: {self.silence:g}: must be less than every phase's deadline, the shortest is {name}: "
                f"{limit:g}; otherwise a frozen process fails the run before it is replaced"
            )
        return self


class WarmupConfig(Section):
    """One warmup run."""

    cluster: ClusterSection
    """Cluster and placement of the ranks."""
    model: ModelSection
    """Whose kernel shapes are warmed."""
    autotune: AutotuneSection = AutotuneSection()
    """Selection and limits of the measurements."""
    guard: GuardSection = GuardSection()
    """Rules by which a winner must beat the default tactic."""
    engine: EngineSection = EngineSection()
    """Start-up warmups of an engine."""
    cache: CacheSection = CacheSection()
    """Caches for the results."""
    timeouts: TimeoutsSection = TimeoutsSection()
    """Deadlines."""

    @model_validator(mode="after")
    def _ranks_fill_the_model(self) -> Self:
        per_replica = self.model.tensor_parallel_size * self.model.pipeline_parallel_size
        if self.cluster.num_ranks % per_replica:
            raise ValueError(
                f"model.tensor_parallel_size: {self.model.tensor_parallel_size}: times model.pipeline_parallel_size "
                f"{self.model.pipeline_parallel_size} it must divide the {self.cluster.num_ranks} ranks of cluster"
            )
        per_stage = self.cluster.num_ranks // self.model.pipeline_parallel_size
        if per_stage % self.model.expert_parallel_size:
            raise ValueError(
                f"model.expert_parallel_size: {self.model.expert_parallel_size}: must divide the {per_stage} ranks "
                "of a pipeline stage"
            )
        return self

    @model_validator(mode="after")
    def _the_engine_fits_a_step(self) -> Self:
        engine, most = self.engine, self.autotune.max_num_seqs
        if engine.num_layers < len(engine.block_sizes):
            raise ValueError(
                f"engine.block_sizes: {list(engine.block_sizes)}: each group needs a layer of its own, "
                f"engine.num_layers is {engine.num_layers}"
            )
        if engine.capture_sizes is not None and max(engine.capture_sizes) > most:
            raise ValueError(
                f"engine.capture_sizes: {list(engine.capture_sizes)}: must be at most autotune.max_num_seqs {most}"
            )
        return self
