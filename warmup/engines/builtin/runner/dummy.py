"""Made-up batches: how many requests of which lengths stand for a given number of tokens. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits


@dataclass(frozen=True, slots=True)
class DummyShape:
    """Shape of a dummy batch."""

    create_mixed_batch: bool = False
    create_single_prefill: bool = False
    uniform_decode: bool = False
    profile_seq_lens: int | None = None

    def __post_init__(self) -> None:
        if self.create_mixed_batch + self.create_single_prefill + self.uniform_decode > 1:
            raise ScheduleError(
                "dummy_run: at most one of create_mixed_batch, create_single_prefill and uniform_decode"
            )


@dataclass(frozen=True, slots=True)
class DummyBatch:
    """Lengths of the made-up requests, decodes first."""

    query_lens: npt.NDArray[np.int32]
    seq_lens: npt.NDArray[np.int32]

    @property
    def num_decodes(self) -> int:
        """Leading requests of one token."""
        return int((self.query_lens == 1).sum())


def dummy_batch(num_tokens: int, shape: DummyShape, limits: SchedulerLimits, decode_query_len: int) -> DummyBatch:
    """Create requests for `num_tokens`.

    Raises ScheduleError if they exceed the limits.
    """
    if not 1 <= num_tokens <= limits.max_num_batched_tokens:
        raise ScheduleError(
            f"dummy_run of {num_tokens} tokens, max_num_batched_tokens is {limits.max_num_batched_tokens}"
        )
    query_lens = np.array(sorted(_query_lens(num_tokens, shape, limits, decode_query_len)), dtype=np.int32)
    if len(query_lens) > limits.max_num_seqs:
        raise ScheduleError(f"dummy_run needs {len(query_lens)} requests, max_num_seqs is {limits.max_num_seqs}")
    wanted = shape.profile_seq_lens or 0
    seq_lens = np.maximum(query_lens, wanted).astype(np.int32)
    if seq_lens.max() > limits.max_model_len:
        raise ScheduleError(f"dummy_run of sequence length {seq_lens.max()}, max_model_len is {limits.max_model_len}")
    return DummyBatch(query_lens, seq_lens)


def _query_lens(num_tokens: int, shape: DummyShape, limits: SchedulerLimits, decode_query_len: int) -> list[int]:
    if shape.create_single_prefill:
        return [num_tokens]
    if shape.uniform_decode:
        whole, rest = divmod(num_tokens, decode_query_len)
        return [decode_query_len] * whole + ([rest] if rest else [])
    if shape.create_mixed_batch and num_tokens > 1:
        decodes = min(num_tokens // 2, limits.max_num_seqs - 1)
        return [1] * decodes + [num_tokens - decodes]
    requests = min(num_tokens, limits.max_num_seqs)
    share, larger = divmod(num_tokens, requests)
    return [share + 1] * larger + [share] * (requests - larger)
