"""Requests that make an engine run what serving makes it run: prefill, chunked prefill, decode, every sampling path.

Which sampler kernels a request reaches was read in vLLM 0.33: an explicit seed leaves the fused sampler, and the
number of rows of a step and the mixture of top-k and top-p decide among the others.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch, token_rows

MAX_BATCH = 65
"""Rows above which another sampler kernel is chosen."""


def trial_batches(max_num_seqs: int, max_num_batched_tokens: int, max_model_len: int) -> tuple[TrialBatch, ...]:
    """List the batches that fit the engine's limits, each at most once."""
    top_k = {"top_k": 20, "seed": 1}
    top_p = {"top_p": 0.9, "seed": 1}
    both = {**top_k, **top_p}
    wanted = [
        *(TrialBatch(rows, 8, {"temperature": 0.7, **top_k}) for rows in (1, 2)),
        *(TrialBatch(rows, 8, {"temperature": 0.7, **both}) for rows in (1, 2, MAX_BATCH)),
        *(TrialBatch(rows, 8, {"temperature": 0.7, **top_p}) for rows in (1, 5, MAX_BATCH)),
        *(TrialBatch(rows, 8, {"temperature": 0.7, **both}, plain=1) for rows in (2, 5)),
        TrialBatch(1, 8, {"temperature": 0.7}),
        TrialBatch(4, 8, {"temperature": 0.0}),
        TrialBatch(2, 8, {"temperature": 0.7, "top_p": 0.9, "logprobs": 5}),
        TrialBatch(1, 8, {"temperature": 0.7, "repetition_penalty": 1.1, "presence_penalty": 0.5, "min_p": 0.1}),
    ]
    longest = max_model_len - 8
    chunked = min(longest, max_num_batched_tokens + max_num_batched_tokens // 2)
    wanted += [TrialBatch(1, length, {"temperature": 0.0}) for length in sorted({min(longest, 512), chunked})]
    return tuple(batch for batch in wanted if batch.rows <= max_num_seqs and batch.prompt_tokens >= 1)


def prompts(batch: TrialBatch) -> list[dict[str, list[int]]]:
    """Return the prompts of one batch as vLLM takes token ids."""
    return [{"prompt_token_ids": token_ids} for token_ids in token_rows(batch)]
