"""Trial requests reach what serving reaches: chunks, decodes beside prefills, seeds, widths of log probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch, token_rows
from ray_warmup.warmup.engines.front_end.trial_start import answer_all
from ray_warmup.warmup.engines.vllm.trial import trial_batches


class _Stages:
    """Keeps nothing."""

    def write(self, text: str) -> None:
        """Take note of nothing."""


def _sent(*limits: int) -> list[TrialBatch]:
    """Return the batches as an engine gets them."""
    sent: list[TrialBatch] = []

    def generate(batch: TrialBatch) -> Sequence[Sequence[int]]:
        sent.append(batch)
        return [[1] for _ in batch.lengths]

    answer_all(trial_batches(*limits), generate, _Stages())  # type: ignore[arg-type]
    return sent


def test_every_feature_of_sampling_is_asked_for() -> None:
    """Each parameter that has a kernel of its own, top-k and top-p with a seed and without."""
    asked = {name for batch in trial_batches(256, 8192, 4096) for name in batch.sampling}
    assert asked == {
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "allowed_token_ids",
        "min_tokens",
        "stop_token_ids",
        "logprobs",
        "prompt_logprobs",
    }
    together = {frozenset(batch.sampling) - {"temperature"} for batch in trial_batches(256, 8192, 4096)}
    for chosen in ({"top_k"}, {"top_p"}, {"top_k", "top_p"}):
        assert {frozenset(chosen), frozenset(chosen | {"seed"})} <= together
    widths = {batch.sampling["top_k"] for batch in trial_batches(256, 8192, 4096) if "top_k" in batch.sampling}
    assert len(widths) > 1


@pytest.mark.parametrize(("most", "asked"), [(20, [0, 1, 3, 5, 10, 15, 20]), (5, [0, 1, 3, 5]), (0, [0])])
def test_no_more_log_probabilities_are_asked_for_than_the_engine_gives(most: int, asked: list[int]) -> None:
    """A limit of the engine's arguments is no error of the start."""
    batches = trial_batches(256, 8192, 4096, most)
    assert [batch.sampling["logprobs"] for batch in batches if "logprobs" in batch.sampling] == asked
    assert any("prompt_logprobs" in batch.sampling for batch in batches) is (most > 0)


@pytest.mark.parametrize(("step", "longest"), [(8192, 40960), (512, 4096), (8192, 4096), (2048, 2048)])
def test_prompts_of_more_than_one_step_have_a_decoding_row_before_them(step: int, longest: int) -> None:
    """The first row is prefilled in the first step and decodes while the others are prefilled."""
    mixed = [batch for batch in trial_batches(256, step, longest) if batch.longer]
    assert len(mixed) == 1
    assert mixed[0].lengths[0] < step < sum(mixed[0].lengths)
    assert max(mixed[0].lengths) + 4 < longest


def test_a_long_prompt_is_prefilled_in_chunks() -> None:
    """It has more tokens than a step where the model's length admits that."""
    assert max(batch.prompt_tokens for batch in trial_batches(256, 512, 4096)) == 768


def test_no_prompt_begins_as_one_of_another_batch() -> None:
    """A prompt that the prefix cache knows would be prefilled in part alone."""
    batches = _sent(256, 512, 4096)
    firsts = [tuple(row[:8]) for batch in batches for row in token_rows(batch)]
    by_batch = [{tuple(row[:8]) for row in token_rows(batch)} for batch in batches]
    assert len(firsts) > 100
    assert sum(len(found) for found in by_batch) == len(set().union(*by_batch))


def test_an_engine_for_few_requests_gets_few() -> None:
    """Batches of more rows than it takes at a time are left out."""
    assert max(len(batch.lengths) for batch in trial_batches(1, 8192, 4096)) == 1
