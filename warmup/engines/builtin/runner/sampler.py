"""Choosing the next token: penalties, temperature, top-k, top-p, min-p, seeds, greedy, log probabilities.

Log probabilities are those of the given logits, a grammar mask included. Then penalties, temperature, top-k, top-p and
min-p are applied, in this order, and one token is drawn. The draw of a seeded request depends only on its seed and its
number of tokens, so it is the same alone, in any batch, and after a restart. On CUDA the filters run through
FlashInfer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams, TokenLogprobs

Filter = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(probabilities [rows, vocabulary], threshold per row) to renormalised probabilities."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One request whose next token is chosen now."""

    params: SamplingParams
    prompt: npt.NDArray[np.int64]
    output: Sequence[int]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One row's choice."""

    token: int
    logprobs: TokenLogprobs | None


class Sampler:
    """Stateless but for the device and how probabilities are filtered."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._top_k, self._top_p = _flashinfer_filters() if device.type == "cuda" else (keep_top_k, keep_top_p)

    def sample(self, logits: torch.Tensor, rows: Sequence[SamplingRow]) -> tuple[Sampled, ...]:
        """Sample one token per row.

        Args:
            logits: [rows, vocabulary] float32 or float64; changed in place where rows have penalties.
            rows: in the same order.
        """
        logprobs = self._logprobs(logits, rows)
        if any(row.params.has_penalties for row in rows):
            self._penalize(logits, rows)
        best = logits.argmax(dim=-1)
        if all(row.params.is_greedy for row in rows):
            chosen = best
        else:
            drawn = self._draw(self.probabilities(logits, rows), rows)
            greedy = self._column([row.params.is_greedy for row in rows], torch.bool)
            chosen = torch.where(greedy, best, drawn)
        return self._collect(chosen, logprobs, rows)

    def probabilities(self, logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
        """Return each row's sampling distribution, [rows, vocabulary].

        Greedy rows keep temperature 1.
        """
        temperature = self._column([row.params.temperature or 1.0 for row in rows], logits.dtype)
        probs = (logits / temperature[:, None]).softmax(dim=-1)
        if any(row.params.top_k for row in rows):
            vocab = logits.shape[1]
            probs = self._top_k(
                probs, self._column([min(row.params.top_k or vocab, vocab) for row in rows], torch.int32)
            )
        if any(row.params.top_p < 1 for row in rows):
            probs = self._top_p(probs, self._column([row.params.top_p for row in rows], torch.float32))
        if any(row.params.min_p for row in rows):
            floor = self._column([row.params.min_p for row in rows], probs.dtype)[:, None]
            probs = torch.where(probs < probs.amax(dim=-1, keepdim=True) * floor, 0.0, probs)
        return probs

    def _draw(self, probs: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
        """The exponential race: the smallest noise / probability wins with exactly that probability."""
        noise = torch.empty_like(probs, dtype=torch.float32)
        if any(row.params.seed is None and not row.params.is_greedy for row in rows):
            noise.exponential_()
        else:
            noise.fill_(1.0)
        for index, row in enumerate(rows):
            if row.params.seed is not None:
                generator = torch.Generator(device=self._device)
                generator.manual_seed(_mix(row.params.seed, len(row.output)))
                noise[index].exponential_(generator=generator)
        return (probs / noise.clamp_min(1e-30)).argmax(dim=-1)

    def _penalize(self, logits: torch.Tensor, rows: Sequence[SamplingRow]) -> None:
        vocab = logits.shape[1]
        nothing = np.empty(0, dtype=np.int64)
        output = [np.array(row.output, dtype=np.int64) if row.params.has_penalties else nothing for row in rows]
        prompt = [row.prompt if row.params.repetition_penalty != 1 else nothing for row in rows]
        in_output = self._counts(output, vocab, logits.dtype)
        in_prompt = self._counts(prompt, vocab, logits.dtype)
        repetition = self._column([row.params.repetition_penalty for row in rows], logits.dtype)[:, None]
        factor = torch.where(logits > 0, 1 / repetition, repetition)
        logits.mul_(torch.where((in_output + in_prompt) > 0, factor, torch.ones_like(factor)))
        logits.sub_(in_output * self._column([row.params.frequency_penalty for row in rows], logits.dtype)[:, None])
        presence = self._column([row.params.presence_penalty for row in rows], logits.dtype)[:, None]
        logits.sub_((in_output > 0) * presence)

    def _counts(self, tokens: Sequence[npt.NDArray[np.int64]], vocab: int, dtype: torch.dtype) -> torch.Tensor:
        """Count each token in each row's list, [rows, vocabulary]."""
        where = np.concatenate([row * vocab + ids for row, ids in enumerate(tokens)])
        index = torch.from_numpy(where).to(self._device)
        counts = torch.zeros(len(tokens) * vocab, dtype=dtype, device=self._device)
        counts.scatter_add_(0, index, torch.ones(len(where), dtype=dtype, device=self._device))
        return counts.view(len(tokens), vocab)

    def _logprobs(
        self, logits: torch.Tensor, rows: Sequence[SamplingRow]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        widths = [row.params.logprobs for row in rows if row.params.logprobs is not None]
        if not widths:
            return None
        table = logits.log_softmax(dim=-1)
        values, ids = table.topk(min(max(*widths, 1), table.shape[1]), dim=-1)
        return table, values, ids

    def _collect(
        self,
        chosen: torch.Tensor,
        logprobs: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
        rows: Sequence[SamplingRow],
    ) -> tuple[Sampled, ...]:
        tokens = chosen.tolist()
        if logprobs is None:
            return tuple(Sampled(token, None) for token in tokens)
        table, values, ids = logprobs
        of_chosen = table.gather(1, chosen[:, None])[:, 0].tolist()
        all_values, all_ids = values.tolist(), ids.tolist()
        result = []
        for index, row in enumerate(rows):
            width = row.params.logprobs
            entry = None
            if width is not None:
                entry = TokenLogprobs(tuple(all_ids[index][:width]), tuple(all_values[index][:width]), of_chosen[index])
            result.append(Sampled(tokens[index], entry))
        return tuple(result)

    def _column(self, values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self._device)


def keep_top_k(probs: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Zero all but the k most likely tokens of each row (ties with the k-th stay) and renormalise."""
    ordered = probs.sort(dim=-1, descending=True).values
    kept = torch.where(probs < ordered.gather(1, (k.long() - 1)[:, None]), 0.0, probs)
    return kept / kept.sum(dim=-1, keepdim=True)


def keep_top_p(probs: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Keep the smallest set of most likely tokens with at least probability p, and renormalise."""
    ordered, index = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = torch.where(before < p.to(probs.dtype)[:, None], ordered, 0.0)
    kept = torch.zeros_like(probs).scatter_(1, index, ordered)
    return kept / kept.sum(dim=-1, keepdim=True)


def _flashinfer_filters() -> tuple[Filter, Filter]:
    from flashinfer import sampling

    renormalize: Any = sampling
    return renormalize.top_k_renorm_probs, renormalize.top_p_renorm_probs


def _mix(seed: int, position: int) -> int:
    """A well-spread 63-bit seed for one draw of one request (the finalizer of splitmix64)."""
    value = (seed + (position + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) >> 1
