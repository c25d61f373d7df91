"""What a host says of itself without FlashInfer, against FlashInfer's own words."""

from __future__ import annotations

import pytest
from flashinfer.compilation_context import CompilationContext

from ray_warmup.warmup.device.host_facts import capability_of, flashinfer_arch, listed_archs


@pytest.mark.parametrize("names", ["9.0a", "9.0", "8.0 7.5 12.0f 10.0a", "9.0a 9.0", "12.1a 11.0"])
def test_a_listed_architecture_is_named_as_flashinfer_does(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images set the list so that kernels fit every GPU; the store's directory and the key follow it."""
    monkeypatch.setenv("FLASHINFER_CUDA_ARCH_LIST", names)
    theirs = sorted(CompilationContext().TARGET_CUDA_ARCHS)
    assert listed_archs(names) == "_".join(f"{major}{minor}" for major, minor in theirs)


@pytest.mark.parametrize("names", ["90a", "9.", "sm9.0"])
def test_a_list_of_something_else_is_named(names: str) -> None:
    """FlashInfer's import would fail on it without saying which variable it read."""
    with pytest.raises(RuntimeError, match=f"FLASHINFER_CUDA_ARCH_LIST: '{names}'"):
        listed_archs(names)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (10, 3)])
def test_one_gpus_architecture_and_back(capability: tuple[int, int]) -> None:
    """The directory of one compute capability is FlashInfer's, and names the capability."""
    major, minor = CompilationContext._normalize_cuda_arch(*capability)
    assert flashinfer_arch(*capability) == f"{major}{minor}"
    assert capability_of(f"{major}{minor}") == capability
