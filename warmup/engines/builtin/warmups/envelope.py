"""Runs a warmup so that it leaves no trace in the runner: everything that a step changes is put back, also after an
exception.

Restored: every buffer that the runner names (bit for bit, host and device side), the null block, the KV connector's
switch, Python's, numpy's and torch's random states, FlashInfer's tuning statistics. What stays is what warmup is for:
compiled kernels, loaded modules, the tuner's table.

Everything runs in inference mode, as in serving, because tensors of that mode cannot be changed outside it and an
engine's buffers may be such tensors. The device is synchronised before anything is restored, because a copy from pinned
memory may still read the host side, and once more at the end.
"""

from __future__ import annotations

import copy
import logging
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from ray_warmup.warmup.engines.builtin.runner.kv_cache import NULL_BLOCK
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, optional
from ray_warmup.warmup.engines.builtin.warmups.spec import WarmupContext

logger = logging.getLogger(__name__)


@contextmanager
def leave_no_trace(context: WarmupContext) -> Iterator[None]:
    """Disable the KV connector, run the body in inference mode, synchronise, restore everything, synchronise."""
    runner = context.runner
    with torch.inference_mode(), ExitStack() as stack:
        stack.callback(context.synchronize)
        stack.enter_context(random_states_kept(runner.device))
        stack.enter_context(tuner_statistics_kept())
        stack.enter_context(connector_disabled(context))
        if Capability.BUFFERS in runner.capabilities:
            buffers: Mapping[str, torch.Tensor] = optional(runner, "buffers")()  # type: ignore[misc]
            stack.enter_context(tensors_kept(buffers))
        if Capability.ZERO_BLOCKS in runner.capabilities:
            stack.callback(optional(runner, "zero_blocks"), (NULL_BLOCK,))  # type: ignore[arg-type]
        stack.callback(context.synchronize)
        yield


@contextmanager
def tensors_kept(tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Restore the tensors' contents, bit for bit."""
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


@contextmanager
def random_states_kept(device: Any) -> Iterator[None]:
    """Restore the random states of Python, numpy, torch and, on CUDA, of the device."""
    python, legacy, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_cuda = torch.device(device).type == "cuda"
    on_device = None
    if on_cuda:
        on_device = torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)


@contextmanager
def connector_disabled(context: WarmupContext) -> Iterator[None]:
    """Disable the KV connector during dummy requests, and restore its state."""
    connector = optional(context.runner, "kv_connector")
    if connector is None or Capability.KV_CONNECTOR not in context.runner.capabilities:
        yield
        return
    was_disabled = bool(getattr(connector, "disabled", False))
    connector.set_disabled(True)
    try:
        yield
    finally:
        connector.set_disabled(was_disabled)


@contextmanager
def tuner_statistics_kept() -> Iterator[None]:
    """Restore FlashInfer's tuning statistics, if FlashInfer's tuner is in use in this process."""
    module = sys.modules.get("flashinfer.autotuner")
    if module is None:
        yield
        return
    tuner = module.AutoTuner.get()
    saved = copy.deepcopy(tuner.stats)
    try:
        yield
    finally:
        tuner.stats = saved
