"""The second half of a step: from hidden states or logits to what each request gets."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch

from ray_warmup.warmup.engines.builtin.kernels.grammar_mask import apply_grammar_mask
from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode
from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.input_batch import RequestState, StepRows
from ray_warmup.warmup.engines.builtin.runner.sampler import Sampler, SamplingRow
from ray_warmup.warmup.engines.builtin.runner.schedule import GrammarOutput, StepOutput


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step between `execute_model` and `sample_tokens`."""

    rows: StepRows
    logits: torch.Tensor | None
    """[requests, vocabulary], float; None on a pipeline stage that is not the last."""

    def mask(self, grammar: GrammarOutput, mode: LaunchMode) -> None:
        """Mask forbidden tokens in place.

        Raises ScheduleError for a request that is not in the step.
        """
        index = {state.req_id: row for row, state in enumerate(self.rows.requests)}
        unknown = sorted(set(grammar.req_ids) - set(index))
        if unknown:
            raise ScheduleError(f"grammar bitmask for {unknown}, not in the step that was executed")
        if self.logits is None:
            raise ScheduleError("grammar bitmask on a pipeline stage that does not sample")
        device = self.logits.device
        rows = torch.tensor([index[req_id] for req_id in grammar.req_ids], dtype=torch.int32, device=device)
        apply_grammar_mask(self.logits, torch.from_numpy(grammar.bitmask).to(device), rows, mode)

    def sample(self, sampler: Sampler) -> StepOutput:
        """Sample one token for each request whose prompt is complete, and append it to the request.

        A stage that does not sample appends a placeholder, so that lengths agree. An engine replaces it by the true
        token.
        """
        states: list[RequestState] = []
        complete: list[int] = []
        for row, state in enumerate(self.rows.requests):
            if self._is_complete(row):
                states.append(state)
                complete.append(row)
        if not complete:
            return StepOutput()
        if self.logits is None:
            for state in states:
                state.tokens.append(0)
            return StepOutput()
        logits = self.logits[torch.tensor(complete, device=self.logits.device)]
        chosen = sampler.sample(logits, [SamplingRow(s.sampling, s.prompt, s.output) for s in states])
        tokens, logprobs = {}, {}
        for state, sampled in zip(states, chosen, strict=True):
            state.tokens.append(sampled.token)
            tokens[state.req_id] = sampled.token
            if sampled.logprobs is not None:
                logprobs[state.req_id] = sampled.logprobs
        return StepOutput(tokens=MappingProxyType(tokens), logprobs=MappingProxyType(logprobs))

    def _is_complete(self, row: int) -> bool:
        return int(self.rows.seq_lens[row]) == len(self.rows.requests[row].tokens)
