"""Let a compiled file that was made on one CUDA device index run on another, by rewriting it while it is loaded.

Inductor writes the index into its generated wrapper (device guards, streams, devices of new tensors) and into the
metadata of each kernel launcher. The text of a kernel is left as it is, because its digest names the kernel.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tests.gpu.engine_study.events import record

_PATTERNS = (
    (r"_DeviceGuard\(\d+\)", "_DeviceGuard({index})"),
    (r"torch\.cuda\.set_device\(\d+\)", "torch.cuda.set_device({index})"),
    (r"get_raw_stream\(\d+\)", "get_raw_stream({index})"),
    (r"device\(type='cuda', index=\d+\)", "device(type='cuda', index={index})"),
    (r"'cuda:\d+'", "'cuda:{index}'"),
)
_QUOTES = "'''"
"""Kernels' sources stand between these in a wrapper."""


def rewritten(source: str, index: int) -> tuple[str, int]:
    """A wrapper's source for another device index, and how many places were changed."""
    parts, changed = source.split(_QUOTES), 0
    for position in range(0, len(parts), 2):
        for pattern, replacement in _PATTERNS:
            parts[position], count = re.subn(pattern, replacement.format(index=index), parts[position])
            changed += count
    return _QUOTES.join(parts), changed


def rewrite_on_load(index: int) -> None:
    """Patch Inductor's loading of compiled graphs in this process."""
    from torch._inductor.output_code import CompiledFxGraph
    from torch._inductor.triton_bundler import TritonBundler

    write, emit = CompiledFxGraph.write_to_disk, TritonBundler.read_and_emit

    def write_to_disk(self: Any) -> str:
        self.source_code, changed = rewritten(self.source_code, index)
        self.cache_key = f"{self.cache_key}_on{index}"
        record("graph rewritten", places=changed, indices=[str(i) for i in self.device_idxs])
        self.device_idxs = type(self.device_idxs)([index])
        return str(write(self))

    def read_and_emit(bundle: Any) -> Any:
        kernels = [dataclasses.replace(kernel, device=index) for kernel in bundle.kernel_artifacts]
        for row in bundle.static_autotuners:
            row.kernel.triton_meta["device"] = index
            for result in row.kernel.compile_results:
                result.compile_meta["device"] = index
        record("bundle rewritten", kernels=len(kernels), static=len(bundle.static_autotuners))
        return emit(dataclasses.replace(bundle, kernel_artifacts=kernels))

    CompiledFxGraph.write_to_disk = write_to_disk
    TritonBundler.read_and_emit = staticmethod(read_and_emit)
