"""An engine's life on one node with the fake vLLM: recorded in one home, proven in another that was empty."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.launcher.proof import prove
from ray_warmup.warmup.engines.launcher.recording import record
from ray_warmup.warmup.engines.start import engine_start as launching
from ray_warmup.warmup.errors import EngineError
from tests.engines.fake_engine import environment

Engine = Callable[..., VllmSection]


def section(**arguments: Any) -> VllmSection:
    """A fake engine with these arguments."""
    return VllmSection(kind="vllm", args={"model": "/models/fake", **arguments}, start_deadline=60)


def cache(tmp_path: Path) -> CacheSection:
    """The node's cache below the test's directory."""
    return CacheSection(root=str(tmp_path / "root"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What the engine's processes see."""
    return environment(tmp_path)


def test_what_one_start_filled_is_found_by_another(tmp_path: Path, environ: dict[str, str]) -> None:
    """Every kind is carried, the second start compiles nothing and says so by kind."""
    recorded = record(section(), cache(tmp_path), environ)
    kinds = {blob.kind for blob in recorded.artifact.manifest.blobs}

    proof = prove(section(), cache(tmp_path), environ)

    assert kinds == {"torch_compile", "inductor", "inductor_home", "modelinfos", "deep_gemm", "engine_record"}
    assert proof.problems == ()
    told = proof.started.records[0]
    assert told.counts.compiled == {}
    assert told.counts.found == {"torch_compile": 1, "inductor": 2, "inductor_home": 1, "deep_gemm": 1}
    assert {kind: told.placed[kind] for kind in ("torch_compile", "inductor", "deep_gemm")} == {
        "torch_compile": 1,
        "inductor": 2,
        "deep_gemm": 1,
    }


def test_a_recording_says_how_much_memory_is_left_to_tuning(tmp_path: Path, environ: dict[str, str]) -> None:
    """What the engine's core said is shown with what was tuned, and a start that is not tuned says nothing."""
    recorded = record(section(), cache(tmp_path), environ)
    plain = record(section().model_copy(update={"tuning": "off"}), cache(tmp_path), environ)

    assert "its KV cache takes 1.00 instead of 4.00 GiB on each rank" in recorded.tuned.warnings[0]
    assert plain.tuned.warnings == ()
    assert "KV cache" not in plain.started.log


def test_a_replica_of_two_ranks_has_a_file_for_each(tmp_path: Path, environ: dict[str, str]) -> None:
    """Ranks that are processes of their own are recorded together and proven one by one."""
    both = section(tensor_parallel_size=2)
    recorded = record(both, cache(tmp_path), environ)
    paths = [blob.path for blob in recorded.artifact.manifest.of_kind("torch_compile")]

    proof = prove(both, cache(tmp_path), environ)

    assert [path.split("/", 1)[1] for path in paths] == ["any_device/rank_0_0/model", "any_device/rank_1_0/model"]
    assert proof.problems == ()
    assert [told.rank for told in proof.started.records] == [0, 1]


def test_another_path_of_the_model_is_the_same_engine(tmp_path: Path, environ: dict[str, str]) -> None:
    """A snapshot directory differs from node to node; what the model says does not."""
    record(section(), cache(tmp_path), environ)
    elsewhere = VllmSection(kind="vllm", args={"model": "/elsewhere/fake"}, start_deadline=60)

    assert prove(elsewhere, cache(tmp_path), environ).problems == ()


def test_sizes_default_as_they_do_for_whoever_serves(tmp_path: Path, environ: dict[str, str]) -> None:
    """A server's default of batched tokens is another one than that of the class: two engines, two artifacts."""
    server = record(section(), cache(tmp_path), environ).artifact.manifest.key
    llm = VllmSection(kind="vllm", args={"model": "/models/fake"}, usage="llm", start_deadline=60)
    library = record(llm, cache(tmp_path), environ).artifact.manifest.key

    sizes = [dict(key.parts)["scheduler_config.max_num_batched_tokens"] for key in (server, library)]
    assert sizes == ["96", "128"]
    assert server.sha256 != library.sha256


def test_factors_that_change_no_kernel_may_differ(tmp_path: Path, environ: dict[str, str]) -> None:
    """vLLM's Ray executor sets a variable of its compile key for its workers; the artifact serves both."""
    record(section(), cache(tmp_path), environ)

    under_ray = environ | {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    assert prove(section(), cache(tmp_path), under_ray).problems == ()


@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        ({"max_num_seqs": 8}, {}, "max_num_seqs 8, recorded 4"),
        ({}, {"VLLM_USE_FAKE_KERNELS": "1"}, "VLLM_USE_FAKE_KERNELS 1, recorded unset"),
    ],
)
def test_a_miss_names_what_differs(
    tmp_path: Path, environ: dict[str, str], arguments: dict[str, Any], variables: dict[str, str], reason: str
) -> None:
    """`require` ends the start with the setting and both values."""
    record(section(), cache(tmp_path), environ)

    with pytest.raises(EngineError, match=reason):
        prove(section(**arguments), cache(tmp_path), environ | variables)


def test_nothing_recorded_is_said(tmp_path: Path, environ: dict[str, str]) -> None:
    """A node without any artifact says that, not that something differs."""
    with pytest.raises(EngineError, match=r"nothing was recorded for vllm 0\.33\.0 on this node"):
        prove(section(), cache(tmp_path), environ)


def test_a_compilation_after_the_warmup_is_no_proof(tmp_path: Path, environ: dict[str, str]) -> None:
    """What a request compiles counts like what the start compiles."""
    record(section(), cache(tmp_path), environ)

    proof = prove(section(), cache(tmp_path), environ | {"FAKE_VLLM_FAULT": "late_compile"})

    assert proof.problems == ("deep_gemm: 1 compiled: kernel.late/kernel.cubin",)


@pytest.mark.parametrize(
    ("fault", "arguments", "complaint"),
    [
        ("init", {}, "exit code 1 while creating the engine; its last lines:.*the fake engine cannot start"),
        ("answer", {}, "answered with no token"),
        ("one_rank", {"tensor_parallel_size": 2}, "a worker of the fake engine failed"),
    ],
)
def test_an_engine_that_fails_says_why(
    tmp_path: Path, environ: dict[str, str], fault: str, arguments: dict[str, Any], complaint: str
) -> None:
    """The error ends with the engine's last lines, and nothing is stored."""
    with pytest.raises(EngineError, match=f"(?s){complaint}"):
        record(section(**arguments), cache(tmp_path), environ | {"FAKE_VLLM_FAULT": fault})

    assert not (tmp_path / "root" / "engine_caches").exists()


def test_an_engine_that_hangs_is_ended_with_all_its_processes(tmp_path: Path, environ: dict[str, str]) -> None:
    """The deadline is named, and no process of its group is left."""
    with pytest.raises(EngineError, match="did not finish its start within 3 s; it was creating the engine"):
        launching.launch(
            VllmSection(kind="vllm", args={"model": "m"}, start_deadline=3),
            tmp_path / "engine",
            tmp_path / "start",
            environ | {"FAKE_VLLM_FAULT": "hang"},
            purpose="record",
        )

    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and str(tmp_path / "start") in command_of(pid)] == []


def command_of(pid: str) -> str:
    """A process' command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
