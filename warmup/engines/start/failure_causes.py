"""Name why an engine did not start, from its last words, with the setting to change.

Read in vLLM 0.32 and 0.33; what is not known here is shown as the engine said it.
"""

from __future__ import annotations

import re

CAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"OutOfMemoryError|CUDA out of memory|No available memory for the cache blocks"),
        "the GPU's memory is too small for the random weights and the caches of this start: raise "
        "engine.args.tensor_parallel_size, lower max_model_len, or give a quantized model",
    ),
    (
        re.compile(r"Free memory on device .* is less than desired GPU memory utilization"),
        "the GPU is busy: another process holds its memory; end it, or lower engine.args.gpu_memory_utilization",
    ),
    (
        re.compile(r"KV cache is needed, which is larger than the available KV cache memory"),
        "the GPU's memory is too small for one request of the full length: lower engine.args.max_model_len, or raise "
        "gpu_memory_utilization",
    ),
    (
        re.compile(r"No CUDA GPUs are available|Failed to infer device type"),
        "the engine sees no GPU: is the driver installed, and does CUDA_VISIBLE_DEVICES name one",
    ),
    (re.compile(r"No space left on device"), "the disk of the engine's start is full: set TMPDIR to one with room"),
)
"""What an engine prints -> the cause and what to change."""


def cause_of(text: str) -> str:
    """Return the cause that an engine's output tells, or an empty text."""
    return next((cause for pattern, cause in CAUSES if pattern.search(text)), "")
