"""A smaller KV cache for a start that is recorded, so that tuning has memory.

vLLM gives nearly all of the memory to the KV cache before its ranks run the forward that is recorded and tuned. A
recorded engine answers a few trial requests, so its cache is planned once more with fewer blocks, by vLLM's own
function and its own option `num_gpu_blocks_override`, which is put back at once. This happens in the engine's core,
which plans for all ranks: every rank has the same number of blocks, whatever executor runs it.

Nothing of it outlives the recording. The number of blocks is in no compile key, it is planned after the profile and its
key were made, and the value that vLLM may save for later starts (`startup_plan.py`) comes from that profile.

A few Triton kernels take the number of blocks, or a size that is linear in it. Triton compiles for three classes of an
integer: 1, multiples of 16, others. The number is lowered by a multiple of 16, which keeps the class of all of them.
The engine's own warmup forms as many requests as fit, so the cache keeps room for `max_num_seqs` short ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_warmup.configs import env

logger = logging.getLogger("ray_warmup")

PART = 4
"""One block of so many is kept, if no request needs more."""
TRITON_MULTIPLE = 16
"""Multiples of it are a class of integers of their own in Triton."""
SHORT_REQUEST = 12
"""Most tokens of a short trial request, and of one in vLLM's warmup: prompt and answer."""
PER_DRAFT_TOKEN = 8
"""Further tokens of it for each token that is drafted: five steps in vLLM's warmup, its prompt, and lookahead."""
GIB = 1 << 30

Plan = Callable[[], list[Any]]
"""Returns vLLM's KV-cache configuration of every rank."""


def is_wanted(vllm_config: Any) -> bool:
    """Return True in a start that is recorded and whose calls are tuned."""
    is_recorded = env.read("RAY_WARMUP_RECORD") is not None and env.read("RAY_WARMUP_TUNE") is not None
    return is_recorded and bool(vllm_config.kernel_config.enable_flashinfer_autotune)


def with_room(plan: Plan, vllm_config: Any, planned: list[Any]) -> list[Any]:
    """Plan the KV cache of all ranks again with fewer blocks, and say how much memory this leaves to tuning.

    Args:
        plan: vLLM's planning, which reads `num_gpu_blocks_override`.
        vllm_config: of the engine's core.
        planned: what vLLM planned by itself, returned where there is nothing to save.

    Raises:
        StoreError: the report's note cannot be written.
        ValueError: vLLM refuses so small a cache.
        RuntimeError: vLLM planned another cache than the one that was asked for.
    """
    blocks = planned[0].num_blocks
    reason, kept = _blocks_to_keep(vllm_config, planned)
    if reason:
        _tell(f"the KV cache of this recording keeps all of its {blocks} blocks: {reason}")
        return planned
    smaller = _planned_with(plan, vllm_config, kept)
    saved = [_gib(before) - _gib(after) for before, after in zip(planned, smaller, strict=True)]
    largest, ours = max(_gib(one) for one in planned), max(_gib(one) for one in smaller)
    _tell(
        f"while this start is recorded, its KV cache takes {ours:.2f} instead of {largest:.2f} GiB on each rank "
        f"({kept} of {blocks} blocks), so tuning has {min(saved):.2f} GiB more; a serving start takes all of them"
    )
    return smaller


def _tell(text: str) -> None:
    """Say it in the engine's log and in the report of the recording."""
    # A warning, since an engine's processes show nothing below it of other libraries.
    logger.warning("ray-warmup: %s -> `engine.tuning: off` records without tuning", text)
    # Imported late: this module is loaded in every process of the engine.
    from ray_warmup.warmup.engines.artifacts.rank_record import write_note

    write_note(Path(env.read("RAY_WARMUP_RECORD") or ""), text)


def _blocks_to_keep(vllm_config: Any, planned: list[Any]) -> tuple[str, int]:
    """Return why the cache stays as it is, or an empty text, and the number of blocks to keep."""
    if any(not one.kv_cache_groups for one in planned):
        return "a rank of it has no attention", 0
    if getattr(vllm_config.attention_config, "hisparse_config", None) is not None:
        return "HiSparse shares it with the host", 0
    blocks = planned[0].num_blocks
    needed = max(blocks_needed(vllm_config, one) for one in planned)
    wanted = max(needed, -(-blocks // PART))
    kept = blocks - (blocks - wanted) // TRITON_MULTIPLE * TRITON_MULTIPLE
    if kept >= blocks:
        return f"its requests need {needed} of them", 0
    return "", kept


def blocks_needed(vllm_config: Any, planned: Any) -> int:
    """Return the blocks without which a recording would fail or run another warmup.

    These are a request of the greatest length beside a short one, or as many short ones as a step may have, and the
    block that vLLM never hands out.
    """
    drafted = 0
    if vllm_config.speculative_config is not None:
        drafted = int(vllm_config.speculative_config.num_speculative_tokens or 0)
    longest = int(vllm_config.model_config.max_model_len)
    short = _blocks_of_request(vllm_config, planned, min(longest, SHORT_REQUEST + PER_DRAFT_TOKEN * drafted))
    full = _blocks_of_request(vllm_config, planned, longest)
    return 1 + max(full + short, short * int(vllm_config.scheduler_config.max_num_seqs))


def _blocks_of_request(vllm_config: Any, planned: Any, tokens: int) -> int:
    """Return the blocks of one request with so many tokens, as vLLM counts those of its longest one."""
    # Imported late: only vLLM's own processes have it.
    from vllm.v1.core.kv_cache_utils import get_max_concurrency_for_kv_cache_config

    # vLLM has no function with a length as its argument, and searches a fitting length in this way itself.
    with _setting(vllm_config.model_config, "max_model_len", tokens):
        concurrency = float(get_max_concurrency_for_kv_cache_config(vllm_config, planned))
    return round(int(planned.num_blocks) / concurrency)


def _planned_with(plan: Plan, vllm_config: Any, blocks: int) -> list[Any]:
    """Return vLLM's plan with a given number of blocks, leaving its configuration as it was."""
    longest = vllm_config.model_config.max_model_len
    # An automatic length is fitted to the memory, and must not be fitted to the smaller cache.
    with (
        _setting(vllm_config.cache_config, "num_gpu_blocks_override", blocks),
        _setting(vllm_config.model_config, "max_model_len", longest),
    ):
        smaller = plan()
        fitted = vllm_config.model_config.max_model_len
    if fitted != longest:
        raise RuntimeError(f"vLLM fits max_model_len to the smaller KV cache: {fitted} instead of {longest}")
    found = sorted({one.num_blocks for one in smaller})
    if found != [blocks]:
        raise RuntimeError(f"vLLM planned a KV cache of {found} blocks instead of {blocks}")
    return smaller


@contextmanager
def _setting(section: Any, name: str, value: int) -> Iterator[None]:
    """Give a setting of vLLM another value for a moment."""
    before = getattr(section, name)
    setattr(section, name, value)
    try:
        yield
    finally:
        setattr(section, name, before)


def _gib(planned: Any) -> float:
    """Return the GiB of one rank's KV cache: every tensor names the size of the whole."""
    return max(int(tensor.size) for tensor in planned.kv_cache_tensors) / GIB
