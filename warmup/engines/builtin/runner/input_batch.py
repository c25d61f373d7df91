"""Requests that the runner knows, and the persistent buffers that a step's inputs are put into.

A step is assembled afresh: its requests, decodes first, take rows 0, 1, ... of the block table. Nothing here runs
the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ray_warmup.warmup.engines.builtin.runner.block_table import CpuGpuBuffer, MultiGroupBlockTable
from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.padded_sizes import token_sizes
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.schedule import BlockIds, NewRequest, SamplingParams, SchedulerOutput


@dataclass(slots=True)
class RequestState:
    """One running request."""

    req_id: str
    tokens: list[int]
    """Prompt and output."""
    prompt_len: int
    sampling: SamplingParams
    block_ids: list[list[int]]
    num_computed: int
    prompt: npt.NDArray[np.int64]
    """The prompt alone, for penalties."""

    @property
    def output(self) -> list[int]:
        """Sampled tokens so far."""
        return self.tokens[self.prompt_len :]


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of one step, decodes first."""

    requests: tuple[RequestState, ...]
    query_lens: npt.NDArray[np.int32]
    seq_lens: npt.NDArray[np.int32]
    num_decodes: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the step."""
        return int(self.query_lens.sum())


@dataclass(slots=True)
class InputBatch:
    """Known requests and step buffers."""

    limits: SchedulerLimits
    block_table: MultiGroupBlockTable
    device: torch.device
    requests: dict[str, RequestState] = field(default_factory=dict)
    token_ids: CpuGpuBuffer = field(init=False)
    position_buffer: CpuGpuBuffer = field(init=False)
    query_start_loc: CpuGpuBuffer = field(init=False)
    seq_lens: CpuGpuBuffer = field(init=False)

    def __post_init__(self) -> None:
        tokens, seqs = token_sizes(self.limits.max_num_batched_tokens)[-1], self.limits.max_num_seqs
        self.token_ids = CpuGpuBuffer(tokens, dtype=torch.int64, device=self.device)
        self.position_buffer = CpuGpuBuffer(tokens, dtype=torch.int64, device=self.device)
        self.query_start_loc = CpuGpuBuffer(seqs + 1, dtype=torch.int32, device=self.device)
        self.seq_lens = CpuGpuBuffer(seqs, dtype=torch.int32, device=self.device)

    def update(self, output: SchedulerOutput) -> None:
        """Drop finished requests, add new ones, extend cached ones."""
        for req_id in output.finished_req_ids:
            self.requests.pop(req_id, None)
        for new in output.new_requests:
            if new.req_id in self.requests:
                raise ScheduleError(f"request {new.req_id} is new, but the runner knows it already")
            self.requests[new.req_id] = _state_of(new)
        cached = output.cached_requests
        for req_id, computed, blocks in zip(
            cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True
        ):
            state = self._known(req_id)
            state.num_computed = computed
            for group, ids in enumerate(blocks or ()):
                state.block_ids[group].extend(ids)

    def rows(self, output: SchedulerOutput) -> StepRows:
        """The scheduled requests with tokens to run, checked against the limits."""
        scheduled = {req_id: count for req_id, count in output.num_scheduled_tokens.items() if count > 0}
        if sum(scheduled.values()) != output.total_num_scheduled_tokens:
            raise ScheduleError(
                f"total_num_scheduled_tokens is {output.total_num_scheduled_tokens}, the requests' tokens sum to "
                f"{sum(scheduled.values())}"
            )
        self._check_limits(scheduled)
        # One token is a decode: `StepRows.num_decodes` counts the rows in front of the prefills.
        order = sorted(scheduled, key=lambda req_id: scheduled[req_id] != 1)
        states = tuple(self._known(req_id) for req_id in order)
        lens = np.array([scheduled[req_id] for req_id in order], dtype=np.int32)
        context = np.array([state.num_computed for state in states], dtype=np.int32)
        for state, length in zip(states, lens, strict=True):
            if state.num_computed + length > len(state.tokens):
                raise ScheduleError(
                    f"request {state.req_id}: {length} tokens scheduled after {state.num_computed}, "
                    f"it has {len(state.tokens)}"
                )
        return StepRows(states, lens, lens + context, int((lens == 1).sum()))

    def fill(self, rows: StepRows, padded_tokens: int) -> None:
        """Put a step into the buffers, committed block table and slot mapping included.

        Positions and token ids of padding are 0; padding slots are set by the slot mapping.
        """
        tokens: list[int] = []
        positions = np.zeros(padded_tokens, dtype=np.int64)
        cursor = 0
        for row, state in enumerate(rows.requests):
            end = state.num_computed + int(rows.query_lens[row])
            tokens.extend(state.tokens[state.num_computed : end])
            positions[cursor : len(tokens)] = np.arange(state.num_computed, end)
            cursor = len(tokens)
            self.block_table.set_row(row, tuple(tuple(ids) for ids in state.block_ids))
            self._check_blocks(row, state, end)
        self.load(np.array(tokens, dtype=np.int64), positions, rows.query_lens, rows.seq_lens, padded_tokens)

    def load(
        self,
        tokens: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        query_lens: npt.NDArray[np.int32],
        seq_lens: npt.NDArray[np.int32],
        padded_tokens: int,
    ) -> None:
        """Copy inputs to the device and compute the slot mapping of the rows that are in the block table."""
        num_reqs = len(query_lens)
        self.token_ids.write(np.pad(tokens, (0, padded_tokens - len(tokens))))
        self.position_buffer.write(positions)
        self.query_start_loc.write(np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32))
        self.seq_lens.write(seq_lens)
        self.block_table.commit_block_table(num_reqs)
        self.block_table.compute_slot_mapping(num_reqs, self.query_start_loc.gpu, self.position_buffer.gpu)

    def buffers(self) -> dict[str, torch.Tensor]:
        """Every tensor that a step may change, by name."""
        named = {
            "token_ids": self.token_ids,
            "positions": self.position_buffer,
            "query_start_loc": self.query_start_loc,
            "seq_lens": self.seq_lens,
        }
        sides = {f"{name}.{side}": getattr(buffer, side) for name, buffer in named.items() for side in ("cpu", "gpu")}
        return sides | self.block_table.buffers()

    def _known(self, req_id: str) -> RequestState:
        if req_id not in self.requests:
            raise ScheduleError(f"request {req_id} is scheduled, but the runner does not know it")
        return self.requests[req_id]

    def _check_limits(self, scheduled: dict[str, int]) -> None:
        tokens, limits = sum(scheduled.values()), self.limits
        if tokens > limits.max_num_batched_tokens or len(scheduled) > limits.max_num_seqs:
            raise ScheduleError(
                f"step of {tokens} tokens in {len(scheduled)} requests; max_num_batched_tokens is "
                f"{limits.max_num_batched_tokens}, max_num_seqs {limits.max_num_seqs}"
            )

    def _check_blocks(self, row: int, state: RequestState, end: int) -> None:
        for group, size in enumerate(self.block_table.host_block_sizes):
            if int(self.block_table.row_lengths[group, row]) * size < end:
                raise ScheduleError(
                    f"request {state.req_id}: group {group} has {len(state.block_ids[group])} blocks of {size} tokens, "
                    f"{end} are needed"
                )


def _state_of(new: NewRequest) -> RequestState:
    return RequestState(
        req_id=new.req_id,
        tokens=list(new.prompt_token_ids),
        prompt_len=len(new.prompt_token_ids),
        sampling=new.sampling or SamplingParams(),
        block_ids=[list(ids) for ids in _checked(new.block_ids, new.req_id)],
        num_computed=new.num_computed_tokens,
        prompt=np.array(new.prompt_token_ids, dtype=np.int64),
    )


def _checked(block_ids: BlockIds, req_id: str) -> BlockIds:
    if not block_ids:
        raise ScheduleError(f"request {req_id} has no block ids for any KV cache group")
    return block_ids
