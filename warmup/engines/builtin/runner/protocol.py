"""Interface between engine warmups and a model runner: the built-in one, or an adapter around an engine's own.

A runner *declares* its capabilities beyond the required part. This closes two dangers: an argument that the runner
would accept and ignore (`**kwargs`) is an error before the call, and a capability that is not declared is a reason to
skip. Importing this module imports neither torch nor FlashInfer.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from ray_warmup.warmup.engines.builtin.runner.errors import MissingCapabilityError, SwallowedArgumentError
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig
from ray_warmup.warmup.engines.builtin.runner.schedule import GrammarOutput, SchedulerOutput


class Capability(StrEnum):
    """Optional capability of a runner.

    The values of the second half are `dummy_run`'s argument names.
    """

    DUMMY_RUN = "dummy_run"
    SLOT_MAPPING = "slot_mapping"
    """Has `block_table` with `commit_block_table` and `compute_slot_mapping`."""
    KV_CONNECTOR = "kv_connector"
    """Has `kv_connector`, which moves KV blocks to or from elsewhere and can be disabled."""
    GRAMMAR = "grammar"
    """`sample_tokens` applies a grammar bitmask."""
    ZERO_BLOCKS = "zero_blocks"
    """Has `zero_blocks(block_ids)`, which clears KV cache blocks in every layer."""
    GRAPH_CAPTURE = "graph_capture"
    """Has `capture_decode(num_tokens)`: one uniform decode step as a CUDA graph, with `replay()`."""
    BUFFERS = "buffers"
    """Has `buffers()`, every persistent tensor that a step may change, so that warmup can restore them."""
    SKIP_EPLB = "skip_eplb"
    IS_PROFILE = "is_profile"
    FORCE_ATTENTION = "force_attention"
    MIXED_BATCH = "create_mixed_batch"
    SINGLE_PREFILL = "create_single_prefill"
    PROFILE_SEQ_LENS = "profile_seq_lens"
    UNIFORM_DECODE = "uniform_decode"
    RANDOMIZE_INPUTS = "randomize_inputs"


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Upper bounds of a scheduler's step."""

    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int


class AttentionBackend(Protocol):
    """Names the kernels that one group of layers attends with."""

    def get_name(self) -> str:
        """Return the upper-case name.

        An abstract backend raises NotImplementedError.
        """


class KVConnector(Protocol):
    """Connector that moves KV blocks elsewhere and back.

    It must not see a warmup's dummy requests.
    """

    disabled: bool

    def set_disabled(self, disabled: bool) -> None:
        """Ignore steps while disabled."""


class BlockTable(Protocol):
    """Block tables of all requests of a step, for every KV cache group."""

    def commit_block_table(self, num_reqs: int) -> None:
        """Copy the first rows to the device."""

    def compute_slot_mapping(self, num_reqs: int, query_start_loc: Any, positions: Any) -> None:
        """Fill the slot mapping of every group on the device."""


@runtime_checkable
class ModelRunner(Protocol):
    """Interface required of every runner.

    Optional attributes are read through `optional`: `block_table` (a `BlockTable`), `kv_connector` (a `KVConnector`),
    `query_start_loc`, `positions`, `zero_blocks`, `buffers`, `capture_decode`, `graph_capture_sizes`, `request_sizes`,
    `token_sizes`.
    """

    capabilities: frozenset[Capability]
    limits: SchedulerLimits
    kv_cache_config: KVCacheConfig
    vocab_size: int
    device: Any
    """torch device; only its `type` and being passed on is relied upon."""
    is_pooling_model: bool
    is_last_pp_rank: bool
    decode_query_len: int
    """Tokens of one request in a decode step; more than 1 with speculative decoding."""
    attention_backends: tuple[AttentionBackend, ...]

    def dummy_run(
        self,
        num_tokens: int,
        *,
        skip_eplb: bool = False,
        is_profile: bool = False,
        force_attention: bool = False,
        create_mixed_batch: bool = False,
        create_single_prefill: bool = False,
        profile_seq_lens: int | None = None,
        uniform_decode: bool = False,
        randomize_inputs: bool = False,
    ) -> Any:
        """Run a forward pass of `num_tokens` dummy tokens that uses no request and no KV block but the null block.

        Args:
            skip_eplb: do not count these tokens in the expert load statistics.
            is_profile: the step stands for the largest one; attention is skipped unless forced.
            force_attention: run attention even so.
            create_mixed_batch: decodes and one prefill in one step.
            create_single_prefill: all tokens belong to one request.
            profile_seq_lens: sequence length of every request, context included.
            uniform_decode: every request has `decode_query_len` tokens.
            randomize_inputs: random token ids in place of zeros.
        """

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """Run one step up to the logits."""

    def sample_tokens(self, grammar_output: GrammarOutput | None) -> Any:
        """Sample from the logits of the last step."""


def lacking(runner: ModelRunner, *needed: Capability) -> str | None:
    """Return a sentence such as "runner lacks slot_mapping, grammar", or None."""
    missing = [capability.value for capability in needed if capability not in runner.capabilities]
    if not missing:
        return None
    return f"runner lacks {', '.join(missing)}"


def optional(runner: ModelRunner, attribute: str) -> Any | None:
    """Return an optional attribute of a runner, or None."""
    return getattr(runner, attribute, None)


def device_type(runner: ModelRunner) -> str:
    """Return `cuda`, `cpu`, ...

    The runner's device is a torch device or its name.
    """
    return str(getattr(runner.device, "type", runner.device)).partition(":")[0]


def call_dummy_run(runner: ModelRunner, num_tokens: int, **arguments: bool | int | None) -> Any:
    """`runner.dummy_run`, refusing any argument that would not be acted upon.

    An argument at its "off" value (False, None) is not passed.

    Raises:
        MissingCapabilityError: the runner declares that it lacks `dummy_run` or an argument of it.
        SwallowedArgumentError: the runner declares an argument that its signature only takes through `**kwargs`, or not
            at all, so that it would be ignored or be a TypeError halfway through a warmup.
    """
    passed = {name: value for name, value in arguments.items() if value is not None and value is not False}
    needed = (Capability.DUMMY_RUN, *(Capability(name) for name in passed))
    if (reason := lacking(runner, *needed)) is not None:
        raise MissingCapabilityError(reason, runner=type(runner).__name__)
    _refuse_swallowed(runner, passed)
    return runner.dummy_run(num_tokens, **passed)  # type: ignore[arg-type]


def _refuse_swallowed(runner: ModelRunner, passed: Collection[str]) -> None:
    parameters = inspect.signature(runner.dummy_run).parameters
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    }
    swallowed = sorted(set(passed) - named)
    if swallowed:
        raise SwallowedArgumentError(
            f"{type(runner).__name__}.dummy_run would ignore {', '.join(swallowed)}: it has no parameter of that name; "
            f"leave {', '.join(swallowed)} out of the runner's capabilities",
            runner=type(runner).__name__,
            arguments=",".join(swallowed),
        )


def backend_names(runner: ModelRunner) -> tuple[str, ...]:
    """Return the names of the runner's attention backends, without abstract ones."""
    names = []
    for backend in runner.attention_backends:
        try:
            names.append(backend.get_name())
        except NotImplementedError:
            continue
    return tuple(names)
