"""The built-in runner: small but real. One step is `execute_model` up to the logits, then `sample_tokens`.

Steps are padded to the sizes of `padded_sizes.py`, so that serving meets a finite set of GEMM shapes: the tuned ones.
`dummy_run` uses the null block only: it writes no key or value and touches no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch

from ray_warmup.warmup.engines.builtin.runner.attention import AttentionStep
from ray_warmup.warmup.engines.builtin.runner.attention_backends import attention_backends, cache_row_shapes
from ray_warmup.warmup.engines.builtin.runner.block_table import CpuGpuBuffer, MultiGroupBlockTable
from ray_warmup.warmup.engines.builtin.runner.dummy import DummyBatch, DummyShape, dummy_batch
from ray_warmup.warmup.engines.builtin.runner.graphs import CapturedStep, DeviceWork, capture
from ray_warmup.warmup.engines.builtin.runner.input_batch import InputBatch, StepRows
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import layer_ops
from ray_warmup.warmup.engines.builtin.runner.padded_sizes import padded, request_sizes, token_sizes
from ray_warmup.warmup.engines.builtin.runner.pending_step import PendingStep
from ray_warmup.warmup.engines.builtin.runner.projections import Projections, WeightSource
from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig, capabilities_on
from ray_warmup.warmup.engines.builtin.runner.sampler import Sampler
from ray_warmup.warmup.engines.builtin.runner.schedule import GrammarOutput, SchedulerOutput, StepOutput
from ray_warmup.warmup.engines.builtin.runner.transformer import Decoder, ForwardStep

Lengths = npt.NDArray[np.int32]


class BuiltinRunner:
    """Satisfies `runner.protocol.ModelRunner` with every capability that its device and model allow."""

    def __init__(self, config: RunnerConfig) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.capabilities = capabilities_on(self.device.type, config.dims)
        self.limits, self.kv_cache_config = config.limits, config.kv_cache
        self.vocab_size = config.dims.vocab_size
        self.is_pooling_model, self.is_last_pp_rank = False, config.is_last_pp_rank
        self.decode_query_len = 1
        self.attention_backends = attention_backends(config, self.device)
        self.token_sizes = token_sizes(config.limits.max_num_batched_tokens)
        self.graph_capture_sizes = config.capture_sizes or request_sizes(config.limits.max_num_seqs)
        self.request_sizes = token_sizes(config.limits.max_num_seqs)
        self._build()

    def _build(self) -> None:
        config, limits, layers = self.config, self.config.limits, self.config.kv_cache.num_layers
        self.block_table = MultiGroupBlockTable(
            config.kv_cache,
            limits.max_num_seqs,
            limits.max_model_len,
            self.token_sizes[-1],
            self.device,
            config.mode,
        )
        self.input_batch = InputBatch(limits, self.block_table, self.device)
        self.expert_load = torch.zeros(layers, max(config.dims.num_experts, 1), dtype=torch.int64, device=self.device)
        weights = WeightSource(config.seed, config.torch_dtype, self.device)
        self.projections = Projections(config.calls, weights, self.device)
        self.decoder = Decoder(
            config.dims,
            layers,
            [config.kv_cache.group_of(layer) for layer in range(layers)],
            self.projections,
            layer_ops(self.device),
            self.expert_load,
            limits.max_model_len,
            config.is_first_pp_rank,
            config.is_last_pp_rank,
        )
        rows = cache_row_shapes(config.dims)
        self.kv_store = KVStore(config.kv_cache, rows, config.torch_dtype, self.device, config.mode)
        self.sampler = Sampler(self.device)
        self._pending: PendingStep | None = None

    @property
    def query_start_loc(self) -> CpuGpuBuffer:
        """Return the start of each request's tokens, on host and device."""
        return self.input_batch.query_start_loc

    @property
    def positions(self) -> torch.Tensor:
        """[max tokens] int64 on the device."""
        return self.input_batch.position_buffer.gpu

    def buffers(self) -> dict[str, torch.Tensor]:
        """Every persistent tensor that a step may change, the KV cache aside."""
        return self.input_batch.buffers() | {"expert_load": self.expert_load}

    def zero_blocks(self, block_ids: Iterable[int]) -> None:
        """Clear KV cache blocks in every layer."""
        self.kv_store.zero_blocks(block_ids)

    def execute_model(
        self, scheduler_output: SchedulerOutput, hidden_in: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Run one step.

        Args:
            scheduler_output: what to run.
            hidden_in: the previous stage's result, on a pipeline stage that is not the first.

        Returns:
            The hidden states of a stage that is not the last; else None, and `sample_tokens` gives the tokens.
        """
        with torch.inference_mode():
            self.input_batch.update(scheduler_output)
            self._pending = None
            if scheduler_output.total_num_scheduled_tokens == 0:
                return None
            rows = self.input_batch.rows(scheduler_output)
            size = padded(rows.num_tokens, self.token_sizes)
            self.input_batch.fill(rows, size)
            hidden = self._planned(rows.query_lens, rows.seq_lens, size, hidden_in, rows.num_tokens)()
            return self._finish(rows, hidden)

    def sample_tokens(self, grammar_output: GrammarOutput | None) -> StepOutput | None:
        """Sample the tokens of the last step. None on a stage that is not the last, or if nothing was executed.

        A request whose prompt is not complete gets no token. Sampled tokens become part of their requests.
        """
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        with torch.inference_mode():
            if grammar_output is not None:
                pending.mask(grammar_output, self.config.mode)
            result = pending.sample(self.sampler)
        if not self.is_last_pp_rank:
            return None
        return result

    def dummy_run(
        self,
        num_tokens: int,
        *,
        skip_eplb: bool = False,
        is_profile: bool = False,
        force_attention: bool = False,
        create_mixed_batch: bool = False,
        create_single_prefill: bool = False,
        profile_seq_lens: int | None = None,
        uniform_decode: bool = False,
        randomize_inputs: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a dummy step as `ModelRunner.dummy_run` does.

        Returns hidden states [tokens, hidden] and logits [requests, vocabulary].
        """
        shape = DummyShape(create_mixed_batch, create_single_prefill, uniform_decode, profile_seq_lens)
        batch = dummy_batch(num_tokens, shape, self.limits, self.decode_query_len)
        tokens = np.zeros(num_tokens, dtype=np.int64)
        if randomize_inputs:
            tokens = np.random.default_rng(num_tokens).integers(0, self.vocab_size, num_tokens)
        with torch.inference_mode():
            counted = 0 if skip_eplb else num_tokens
            return self._dummy_work(batch, tokens, counted, attend=force_attention or not is_profile)()

    def capture_decode(self, num_tokens: int) -> CapturedStep:
        """Capture a uniform decode step of `num_tokens` dummy tokens in a CUDA graph.

        It writes the same buffers as `dummy_run`.
        """
        batch = dummy_batch(num_tokens, DummyShape(uniform_decode=True), self.limits, self.decode_query_len)
        with torch.inference_mode():
            return capture(self._dummy_work(batch, np.zeros(num_tokens, dtype=np.int64), 0, attend=True))

    def _dummy_work(
        self, batch: DummyBatch, tokens: npt.NDArray[np.int64], counted: int, *, attend: bool
    ) -> DeviceWork:
        """Load and plan a dummy batch.

        The returned work runs on the device alone.
        """
        num_tokens, query_lens = len(tokens), batch.query_lens
        size = padded(num_tokens, self.token_sizes)
        for row in range(len(query_lens)):
            self.block_table.clear_row(row)
        positions = np.concatenate(
            [np.arange(seq - query, seq) for query, seq in zip(query_lens, batch.seq_lens, strict=True)]
        )
        self.input_batch.load(tokens, np.pad(positions, (0, size - num_tokens)), query_lens, batch.seq_lens, size)
        self.block_table.slot_mapping.fill_(-1)
        forward = self._planned(query_lens, batch.seq_lens, size, None, counted, attend=attend)
        logits = None
        if self._has_head:
            logits = self._logits_of(query_lens)

        def work() -> tuple[torch.Tensor, torch.Tensor | None]:
            hidden = forward()
            return hidden[:num_tokens], None if logits is None else logits(hidden)

        return work

    @property
    def _has_head(self) -> bool:
        return self.is_last_pp_rank

    def _planned(
        self,
        query_lens: Lengths,
        seq_lens: Lengths,
        size: int,
        hidden_in: torch.Tensor | None,
        counted: int,
        attend: bool = True,
    ) -> Callable[[], torch.Tensor]:
        """Plan attention for the buffers' content.

        The returned forward only launches kernels.
        """
        if attend:
            self._plan(query_lens, seq_lens)
        inputs: torch.Tensor = self.input_batch.token_ids.gpu[:size]
        if not self.config.is_first_pp_rank:
            width, dtype = self.config.dims.hidden_size, self.config.torch_dtype
            inputs = torch.zeros(size, width, dtype=dtype, device=self.device)
            if hidden_in is not None:
                inputs[: hidden_in.shape[0]] = hidden_in
        step = ForwardStep(
            positions=self.positions[:size],
            slot_mapping=self.block_table.slot_mapping[:, :size],
            attention=self.attention_backends if attend else None,
            num_tokens=int(query_lens.sum()),
            num_counted=counted,
        )
        return lambda: self.decoder.forward(inputs, step, self.kv_store)

    def _plan(self, query_lens: Lengths, seq_lens: Lengths) -> None:
        starts = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
        for group, backend in enumerate(self.attention_backends):
            backend.plan(
                AttentionStep(
                    query_start_loc=starts,
                    seq_lens=seq_lens,
                    num_decodes=int((query_lens == 1).sum()),
                    block_table=self.block_table.table.np[group, : len(query_lens)],
                    block_size=self.block_table.host_block_sizes[group],
                )
            )

    def _logits_of(self, query_lens: Lengths) -> Callable[[torch.Tensor], torch.Tensor]:
        """Map hidden states to logits of each request's last token.

        The LM head runs on a padded number of rows.
        """
        last = np.cumsum(query_lens) - 1
        rows = np.pad(last, (0, padded(len(last), self.request_sizes) - len(last)))
        index = torch.from_numpy(rows.astype(np.int64)).to(self.device)
        return lambda hidden: self.decoder.logits(hidden[index])[: len(last)]

    def _finish(self, rows: StepRows, hidden: torch.Tensor) -> torch.Tensor | None:
        if not self.is_last_pp_rank:
            self._pending = PendingStep(rows, None)
            return hidden[: rows.num_tokens]
        self._pending = PendingStep(rows, self._logits_of(rows.query_lens)(hidden))
        return None
