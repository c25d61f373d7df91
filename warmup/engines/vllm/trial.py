"""Requests that make an engine run what serving makes it run: prefill, chunked prefill, decode, every sampling path.

Which sampler kernels a request reaches was read in vLLM 0.33: an explicit seed leaves the fused sampler, the number of
rows of a step and the mixture of top-k and top-p decide among the others, and log probabilities have one kernel for
each width. What needs a tokenizer, of which a trial start has none, is not among them: bad words and structured
outputs, whose kernels vLLM's own warmup runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.warmup.engines.front_end.trial_batch import SamplingValue, TrialBatch, token_rows

MAX_BATCH = 65
"""Rows above which another sampler kernel is chosen."""
LOG_PROBABILITIES = (0, 1, 3, 5, 10, 15, 20)
"""Numbers of log probabilities with a kernel each: by the power of two that holds one more, and 16 has two."""
WARM: dict[str, SamplingValue] = {"temperature": 0.7}


def trial_batches(
    max_num_seqs: int, max_num_batched_tokens: int, max_model_len: int, max_logprobs: int = 20
) -> tuple[TrialBatch, ...]:
    """List the batches that fit the engine's limits, each at most once.

    `max_logprobs` is how many log probabilities a request may ask for, -1 for as many as it likes.
    """
    wanted = [*_choices(), *_features(), *_log_probabilities(max_logprobs)]
    longest = max_model_len - 8
    chunked = min(longest, max_num_batched_tokens + max_num_batched_tokens // 2)
    wanted += [TrialBatch(1, length, {"temperature": 0.0}) for length in sorted({min(longest, 512), chunked})]
    wanted.append(TrialBatch(1, 8, {"temperature": 0.0}, longer=_more_than_one_step(longest, max_num_batched_tokens)))
    return tuple(batch for batch in wanted if len(batch.lengths) <= max_num_seqs and batch.prompt_tokens >= 1)


def _choices() -> Iterator[TrialBatch]:
    """Yield batches for each way to choose a token, with a seed and without."""
    seeds: tuple[dict[str, SamplingValue], ...] = ({"seed": 1}, {})
    for seed in seeds:
        top_k = {**WARM, **seed, "top_k": 20}
        top_p = {**WARM, **seed, "top_p": 0.9}
        both = {**top_k, **top_p}
        for rows in (1, 2):
            yield TrialBatch(rows, 8, top_k)
        for rows in (1, 2, MAX_BATCH):
            yield TrialBatch(rows, 8, both)
        for rows in (1, 5, MAX_BATCH):
            yield TrialBatch(rows, 8, top_p)
        for rows in (2, 5):
            yield TrialBatch(rows, 8, both, plain=1)
        yield TrialBatch(1, 8, {**WARM, **seed})
    yield TrialBatch(2, 8, {**WARM, "top_k": 500, "top_p": 0.9})
    yield TrialBatch(4, 8, {"temperature": 0.0})


def _features() -> Iterator[TrialBatch]:
    """Yield a batch for each thing that changes logits, alone and greedy, and one for many at once."""
    features: tuple[dict[str, SamplingValue], ...] = (
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"logit_bias": {5: 1.0}},
        {"allowed_token_ids": [5, 6, 7, 8]},
        {"min_tokens": 2, "stop_token_ids": [5]},
    )
    for feature in features:
        yield TrialBatch(2, 8, {"temperature": 0.0, **feature})
    yield TrialBatch(2, 8, {**WARM, "min_p": 0.1})
    yield TrialBatch(1, 8, {**WARM, "repetition_penalty": 1.1, "presence_penalty": 0.5, "min_p": 0.1})


def _log_probabilities(most: int) -> Iterator[TrialBatch]:
    """Yield a batch for each width of log probabilities that requests may ask for, of the answer and of the prompt."""
    for count in LOG_PROBABILITIES:
        if most == -1 or count <= most:
            yield TrialBatch(2, 8, {**WARM, "top_p": 0.9, "logprobs": count})
    if most == -1 or most >= 1:
        yield TrialBatch(2, 8, {"temperature": 0.0, "prompt_logprobs": 1})


def _more_than_one_step(longest: int, step: int) -> tuple[int, ...]:
    """Return lengths of prompts that together have more tokens than one step has room for."""
    if longest < 1:
        return ()
    whole, rest = divmod(step + step // 2, longest)
    return (longest,) * whole + ((rest,) if rest else ())


def prompts(batch: TrialBatch) -> list[dict[str, list[int]]]:
    """Return the prompts of one batch as vLLM takes token ids."""
    return [{"prompt_token_ids": token_ids} for token_ids in token_rows(batch)]
