"""Every sampling feature, on logits small enough to reason about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.sampler import Sampler, SamplingRow, keep_top_k, keep_top_p
from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams

VOCAB = 12


@pytest.fixture
def sampler() -> Sampler:
    """A sampler on the CPU, with a fixed global random state."""
    torch.manual_seed(11)
    return Sampler(torch.device("cpu"))


@pytest.fixture
def logits() -> torch.Tensor:
    """Distinct logits, most likely token last."""
    return torch.linspace(-2.0, 3.0, VOCAB)


def row(params: SamplingParams, prompt: tuple[int, ...] = (), output: tuple[int, ...] = ()) -> SamplingRow:
    """One row with a history."""
    return SamplingRow(params, np.array(prompt, dtype=np.int64), output)


def drawn(sampler: Sampler, logits: torch.Tensor, params: SamplingParams, count: int = 400) -> list[int]:
    """Tokens of `count` equal rows."""
    sampled = sampler.sample(logits.repeat(count, 1), [row(params)] * count)
    return [item.token for item in sampled]


def test_greedy_takes_the_most_likely_token(sampler: Sampler, logits: torch.Tensor) -> None:
    """Temperature 0 gives the largest logit, whatever the filters."""
    params = SamplingParams(temperature=0.0, top_k=3, top_p=0.5, min_p=0.2)

    assert set(drawn(sampler, logits, params)) == {VOCAB - 1}


def test_greedy_and_random_rows_share_a_batch(sampler: Sampler, logits: torch.Tensor) -> None:
    """A greedy row in a random batch still gets its largest logit."""
    rows = [row(SamplingParams.greedy()), row(SamplingParams(top_k=1)), row(SamplingParams(seed=3))]

    tokens = [item.token for item in sampler.sample(logits.repeat(3, 1), rows)]

    assert tokens[:2] == [VOCAB - 1, VOCAB - 1]


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_draws_from_exactly_the_k_most_likely(sampler: Sampler, logits: torch.Tensor, k: int) -> None:
    """The support of the draws is the k largest logits, all of them."""
    flat = logits * 0.1

    assert set(drawn(sampler, flat, SamplingParams(top_k=k))) == set(range(VOCAB - k, VOCAB))


def test_top_p_draws_from_the_smallest_sufficient_set(sampler: Sampler) -> None:
    """With probabilities 0.5, 0.3, 0.15, 0.05 and p=0.7 only the first two tokens appear."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    assert set(drawn(sampler, logits, SamplingParams(top_p=0.7))) == {0, 1}


def test_min_p_drops_tokens_below_the_share_of_the_best(sampler: Sampler) -> None:
    """With probabilities 0.5, 0.3, 0.15, 0.05 and min_p=0.25 the last token never appears."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    assert set(drawn(sampler, logits, SamplingParams(min_p=0.25))) == {0, 1, 2}


def test_temperature_sharpens_and_flattens(sampler: Sampler) -> None:
    """The drawn frequencies follow softmax(logits / temperature)."""
    logits, count = torch.tensor([0.0, 1.0]), 4000

    for temperature in (0.5, 1.0, 2.0):
        share = np.mean(drawn(sampler, logits, SamplingParams(temperature=temperature), count))
        expected = float((logits / temperature).softmax(0)[1])
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)


def test_a_seed_fixes_the_draw_and_nothing_else_matters(sampler: Sampler, logits: torch.Tensor) -> None:
    """Seeded draws are equal alone, in a batch, and under another global random state; other positions differ."""
    params = SamplingParams(seed=42)
    histories = [(), (1,), (1, 2), (1, 2, 3), (0,) * 4, (0,) * 5, (0,) * 6, (0,) * 7]
    alone = [sampler.sample(logits[None].clone(), [row(params, output=h)])[0].token for h in histories]
    torch.manual_seed(987)
    rows = [row(SamplingParams())] + [row(params, output=h) for h in histories]

    batch = [item.token for item in sampler.sample(logits.repeat(len(rows), 1), rows)][1:]

    assert batch == alone
    assert len(set(alone)) > 1


def test_seeded_and_greedy_rows_leave_the_global_random_state_alone(sampler: Sampler, logits: torch.Tensor) -> None:
    """A batch of only seeded and greedy rows draws nothing from the global generator."""
    before = torch.get_rng_state()

    sampler.sample(logits.repeat(2, 1), [row(SamplingParams(seed=1)), row(SamplingParams.greedy())])

    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(presence_penalty=0.5), [1.0, -1.5, 1.5, 1.0]),
        (SamplingParams(frequency_penalty=0.5), [1.0, -1.5, 1.0, 1.0]),
        (SamplingParams(repetition_penalty=2.0), [0.5, -2.0, 1.0, 1.0]),
    ],
)
def test_penalties_change_the_logits_of_seen_tokens(
    sampler: Sampler, params: SamplingParams, expected: list[float]
) -> None:
    """Prompt [0], output [1, 2, 2]: presence once, frequency per occurrence, repetition on prompt and output too."""
    logits = torch.tensor([[1.0, -1.0, 2.0, 1.0]])

    sampler.sample(logits, [row(replace(params, temperature=0.0), prompt=(0,), output=(1, 2, 2))])

    torch.testing.assert_close(logits, torch.tensor([expected]))


def test_penalties_of_one_row_leave_the_others(sampler: Sampler, logits: torch.Tensor) -> None:
    """A row without penalties keeps its logits beside a row with all of them."""
    batch = logits.repeat(2, 1)
    everything = SamplingParams(presence_penalty=1.0, frequency_penalty=1.0, repetition_penalty=1.5)

    sampler.sample(batch, [row(everything, (1, 2), (3, 3)), row(SamplingParams(), (1, 2), (3, 3))])

    assert torch.equal(batch[1], logits)
    assert not torch.equal(batch[0], logits)


def test_logprobs_are_of_the_logits_as_given(sampler: Sampler, logits: torch.Tensor) -> None:
    """The n most likely tokens, their log probabilities and the chosen one's, before penalties and filters."""
    params = SamplingParams(temperature=0.0, logprobs=3, presence_penalty=5.0)
    table = logits.log_softmax(0)

    sampled, plain = sampler.sample(
        logits.repeat(2, 1), [row(params, output=(VOCAB - 1,)), row(SamplingParams.greedy())]
    )

    assert plain.logprobs is None
    assert sampled.token == VOCAB - 2
    assert sampled.logprobs is not None
    assert sampled.logprobs.token_ids == (VOCAB - 1, VOCAB - 2, VOCAB - 3)
    assert sampled.logprobs.logprobs == pytest.approx(table.flip(0)[:3].tolist())
    assert sampled.logprobs.chosen == pytest.approx(float(table[VOCAB - 2]))


def test_filters_renormalise_each_row_by_its_own_threshold() -> None:
    """Top-k and top-p keep what each row's threshold allows, and every row still sums to 1."""
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])

    by_k = keep_top_k(probs, torch.tensor([1, 4]))
    by_p = keep_top_p(probs, torch.tensor([0.6, 0.35]))

    torch.testing.assert_close(by_k, torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.4, 0.3, 0.2, 0.1]]))
    torch.testing.assert_close(by_p, torch.tensor([[0.0, 0.0, 3 / 7, 4 / 7], [1.0, 0.0, 0.0, 0.0]]))


def test_the_warmup_parameters_switch_every_feature_on() -> None:
    """`for_warmup` differs from the defaults in every field that is a feature."""
    warm, default = SamplingParams.for_warmup(seed=1), SamplingParams()

    assert all(getattr(warm, name) != getattr(default, name) for name in SamplingParams.__slots__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("logprobs", -1),
    ],
)
def test_impossible_parameters_are_refused(field: str, value: float) -> None:
    """A parameter outside its range names itself and the value."""
    with pytest.raises(ValueError, match=f"SamplingParams.{field} is {value}"):
        SamplingParams(**{field: value})
