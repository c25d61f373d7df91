"""Requests that make SGLang run what serving makes it run: prefill, chunked prefill, decode, every sampling path.

Rows that are sent together may be scheduled in several steps, so each size comes with others of its kind.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch

LONG = 512
ODD = 57
"""Tokens of a prompt that no power of two divides."""


def trial_batches(max_running_requests: int, chunked_prefill_size: int, longest: int) -> tuple[TrialBatch, ...]:
    """List the batches that fit an engine's limits.

    Args:
        max_running_requests: requests that run at a time.
        chunked_prefill_size: tokens of one step of a prefill.
        longest: tokens of a prompt and its answer.
    """
    top_k, top_p = {"top_k": 20}, {"top_p": 0.9}
    warm = {"temperature": 0.7}
    wanted = [TrialBatch(rows, 8, {"temperature": 0.0}) for rows in (1, 1, 2, 4, 16)]
    wanted += [TrialBatch(rows, ODD, {**warm, **top_k, **top_p}) for rows in (1, 2, 5, 16, 17, 64)]
    wanted += [TrialBatch(rows, 16, {**warm, **top_p}) for rows in (1, 2, 16)]
    wanted += [TrialBatch(rows, 8, {**warm, **top_k}) for rows in (1, 2)]
    wanted += [
        TrialBatch(1, 8, dict(warm)),
        TrialBatch(2, 8, {**warm, "min_p": 0.1}),
        TrialBatch(2, 8, {**warm, "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}),
    ]
    chunked = chunked_prefill_size + chunked_prefill_size // 2
    # A size of no chunks is a prefill in one step.
    longs = [length for length in (LONG, chunked) if 0 < length < longest]
    wanted += [TrialBatch(1, length, {"temperature": 0.0}) for length in longs]
    return tuple(batch for batch in wanted if batch.rows <= max_running_requests and batch.prompt_tokens < longest)
