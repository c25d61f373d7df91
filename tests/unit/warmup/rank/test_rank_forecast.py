"""What is foretold of a rank without its GPU: what it would skip, under which key, and where nothing can be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.loader import text_of_config
from ray_warmup.warmup.device.host_facts import describe_host
from ray_warmup.warmup.errors import ForecastError
from ray_warmup.warmup.rank import forecast
from ray_warmup.warmup.rank.forecast import Forecast, forecast_rank
from ray_warmup.warmup.workloads.fused_moe import NOT_COMPILED
from ray_warmup.warmup.workloads.modules import FUSED_MOE_MODULE
from tests.cache_requests import perform

Teller = Callable[[str], Forecast]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmupConfig:
    """A MoE model on one GPU, its cache in `tmp_path`."""
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "flashinfer"))
    sections = {"model": {"name": "qwen3-30b-a3b"}, "cluster": {"ranks_per_node": 1, "backend": "cuda"}}
    return parse_config({**sections, "cache": {"root": str(tmp_path)}})


@pytest.fixture
def tell(config: WarmupConfig, monkeypatch: pytest.MonkeyPatch) -> Teller:
    """`tell("90a")`: the forecast on a node whose GPU has this architecture."""

    def on(arch: str) -> Forecast:
        monkeypatch.setattr(forecast, "describe_host", lambda index, archs: {**describe_host(None), "arch": arch})
        monkeypatch.setattr(forecast, "gpu_capability", lambda index: (9, 0))
        return forecast_rank(config, 0)

    return on


def test_what_a_gpu_cannot_run_is_foretold(tell: Teller) -> None:
    """An older GPU skips by its compute capability, with one reason for each workload, and has no tasks of them."""
    found = tell("75")
    reasons = {skip.op: skip.reason for skip in found.skips}
    assert "needs compute capability 8.0, this GPU has (7, 5)" in reasons["paged_decode"]
    assert "only compute capability 9.0" in reasons["trtllm::fused_moe::gemm1"]
    assert {skip.workload for skip in found.skips}.isdisjoint(workload.name for workload in found.workloads)
    assert found.num_tasks == 0
    assert {skip.op for skip in tell("75_80_90a").skips} == {skip.op for skip in tell("90a").skips}


def test_the_cpu_backend_skips_nothing(config: WarmupConfig) -> None:
    """Its calls are all plain GEMMs; `auto` is the cpu backend where no GPU is asked for."""
    told = []
    for change in ({"backend": "cpu"}, {"backend": "auto", "gpus_per_rank": 0}):
        told.append(forecast_rank(config.model_copy(update={"cluster": config.cluster.model_copy(update=change)}), 0))
    assert told[0] == told[1]
    assert told[0].skips == ()


def test_a_module_that_is_built_later_makes_another_key(tell: Teller, tmp_path: Path) -> None:
    """Without the fused MoE module its ops are skipped; once it is built they make another key."""
    without = tell("90a")
    assert {(skip.op, skip.reason) for skip in without.skips} == {
        ("trtllm::fused_moe::gemm1", NOT_COMPILED),
        ("trtllm::fused_moe::gemm2", NOT_COMPILED),
    }
    version = dict(without.key.parts)["flashinfer_version"]
    library = (
        tmp_path
        / "flashinfer/.cache/flashinfer"
        / version
        / "90a/cached_ops"
        / FUSED_MOE_MODULE
        / f"{FUSED_MOE_MODULE}.so"
    )
    library.parent.mkdir(parents=True)
    library.touch()
    built = tell("90a")
    assert (built.skips, built.num_tasks > without.num_tasks) == ((), True)
    assert built.key.differences(without.key.as_dict()).keys() == {"tasks"}


def test_a_node_without_a_gpu_says_so(config: WarmupConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NVML finds no driver the error names the reason and the setting; a cache command passes it on."""

    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    with pytest.raises(ForecastError, match=r"cannot tell .*Not Found.*cluster\.backend"):
        forecast_rank(config, 0)
    answer = perform("explain", {"config": text_of_config(config), "cache": config.cache})
    assert (answer["ok"], "cluster.backend" in answer["error"]) == (False, True)
