"""Input of a model runner for one step, as frozen values without torch.

A step names new requests (with prompt, sampling and blocks), cached ones (with added blocks), the number of tokens of
each that run now, and the requests that ended. Blocks are given per KV cache group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

BlockIds = tuple[tuple[int, ...], ...]
"""Block ids of one request, one tuple per KV cache group."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request. Every default switches its feature off."""

    temperature: float = 1.0
    """0.0 is greedy: the most likely token, whatever the filters say."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each token in the output so far."""
    frequency_penalty: float = 0.0
    """Subtracted for each time that a token is in the output so far."""
    repetition_penalty: float = 1.0
    """Divides positive, multiplies negative logits of tokens in the prompt or output."""
    seed: int | None = None
    """Makes this request's tokens independent of every other request and of the global random state."""
    logprobs: int | None = None
    """Return the log probabilities of the n most likely tokens (and of the chosen one)."""

    def __post_init__(self) -> None:
        rules = (
            (self.temperature >= 0, f"temperature is {self.temperature}, must be >= 0"),
            (self.top_k >= 0, f"top_k is {self.top_k}, must be >= 0"),
            (0 < self.top_p <= 1, f"top_p is {self.top_p}, must be in (0, 1]"),
            (0 <= self.min_p <= 1, f"min_p is {self.min_p}, must be in [0, 1]"),
            (self.repetition_penalty > 0, f"repetition_penalty is {self.repetition_penalty}, must be > 0"),
            (self.logprobs is None or self.logprobs >= 0, f"logprobs is {self.logprobs}, must be >= 0"),
        )
        for holds, message in rules:
            if not holds:
                raise ValueError(f"SamplingParams.{message}")

    @property
    def is_greedy(self) -> bool:
        """Return True if the most likely token is taken."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Return True if earlier tokens change the logits."""
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0.0, 0.0, 1.0)

    @classmethod
    def for_warmup(cls, seed: int | None = None, top_k: int = 8) -> SamplingParams:
        """Return parameters with every feature on, each at an effective value."""
        return cls(
            temperature=0.7,
            top_k=top_k,
            top_p=0.9,
            min_p=0.05,
            presence_penalty=0.1,
            frequency_penalty=0.1,
            repetition_penalty=1.1,
            seed=seed,
            logprobs=5,
        )

    @classmethod
    def greedy(cls) -> SamplingParams:
        """The most likely token, nothing else."""
        return cls(temperature=0.0)


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """Asks a pooling model for a request's vector in place of tokens."""


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request that the runner has not seen yet."""

    req_id: str
    prompt_token_ids: tuple[int, ...]
    block_ids: BlockIds
    sampling: SamplingParams | None = None
    pooling: PoolingParams | None = None
    num_computed_tokens: int = 0
    """Tokens whose keys and values are in the cache already."""


@dataclass(frozen=True, slots=True)
class CachedRequests:
    """Requests that the runner knows, as parallel fields."""

    req_ids: tuple[str, ...] = ()
    num_computed_tokens: tuple[int, ...] = ()
    new_block_ids: tuple[BlockIds | None, ...] = ()
    """Blocks to append per group; None for none."""


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step."""

    new_requests: tuple[NewRequest, ...] = ()
    cached_requests: CachedRequests = CachedRequests()
    num_scheduled_tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    total_num_scheduled_tokens: int = 0
    num_common_prefix_blocks: tuple[int, ...] = ()
    """Per group, how many leading blocks all requests share."""
    finished_req_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GrammarOutput:
    """Tokens that a grammar allows, for some requests of the last executed step."""

    req_ids: tuple[str, ...]
    bitmask: npt.NDArray[np.int32]
    """[requests, ceil(vocabulary / 32)], lowest bit first; 1 allows."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities of one sampled token: the most likely ones, and the chosen one."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    chosen: float


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Output of one step for each request that has any."""

    tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Sampled token of each request whose prompt is complete."""
    logprobs: Mapping[str, TokenLogprobs] = field(default_factory=lambda: MappingProxyType({}))
