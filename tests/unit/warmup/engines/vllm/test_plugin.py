"""The plugin in an engine's processes: light when it is loaded, harmless whatever goes wrong, silent when off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.caches import placed
from ray_warmup.warmup.engines.vllm.on_this_node import record
from tests.engines.fake_engine import environment

START = """
import json, sys, vllm
llm = vllm.LLM(load_format="dummy", skip_tokenizer_init=True, model="/models/fake", max_num_batched_tokens=96)
print(json.dumps({"hooked": hasattr(vllm.v1.worker.worker_base.WorkerWrapperBase.init_device, "__wrapped__")}))
"""
"""An engine of the size that was recorded: the one that the fake engine's server defaults to."""
HEAVY = ("torch", "ray", "pydantic", "typer", "rich", "numpy", "flashinfer", "triton")


def python(code: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a child to its end."""
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)


def recorded(tmp_path: Path, environ: dict[str, str]) -> Path:
    """A node that holds an artifact of the fake engine; returns its store."""
    section = VllmSection(kind="vllm", args={"model": "/models/fake"}, start_deadline=60)
    return record(section, CacheSection(root=str(tmp_path / "root")), environ).store


def counts(home: Path) -> dict[str, Any]:
    """What a proof directory says of rank 0."""
    told: dict[str, Any] = json.loads((home / "rank_0.json").read_text())
    return told


def test_loading_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    """The entry point costs its own few modules: no torch, no Ray, no pydantic, no command line."""
    code = "import sys\nfrom ray_warmup.warmup.engines.vllm import plugin\nplugin.register()\n"
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = python(code, environment(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize(("mode", "hooked"), [("off", False), ("auto", True), ("", True)])
def test_off_installs_nothing(tmp_path: Path, mode: str, hooked: bool) -> None:
    """`RAY_WARMUP=off` leaves every function of the engine as it is."""
    done = python(START, environment(tmp_path, RAY_WARMUP=mode))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"hooked": hooked}


def test_an_unknown_mode_is_named_and_auto_is_used(tmp_path: Path) -> None:
    """A typing error must not end an engine's start."""
    done = python(START, environment(tmp_path, RAY_WARMUP="requir"))
    assert done.returncode == 0
    assert "RAY_WARMUP: 'requir': must be one of auto, off, require; auto is used" in done.stderr


def test_under_auto_an_engine_starts_without_an_artifact(tmp_path: Path) -> None:
    """Nothing was recorded: the engine compiles for itself, and one line says why where its logs are."""
    done = python(START, environment(tmp_path))
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "ray-warmup" in line]
    assert len(said) == 1
    assert "this start compiles for itself: nothing was recorded for vllm 0.33.0 on this node" in said[0]
    assert list((tmp_path / "home").rglob("cab.so"))


def test_under_auto_a_damaged_artifact_is_one_log_line(tmp_path: Path) -> None:
    """Blobs that are not what they should be: a warning, and the engine's own path; `require` fails the start."""
    environ = environment(tmp_path)
    for blob in (recorded(tmp_path, environ) / "blobs").iterdir():
        blob.write_bytes(b"damaged")

    done = python(START, environ)
    required = python(START, environ | {"RAY_WARMUP": "require"})

    assert done.returncode == 0, done.stderr
    assert "the engine goes its own way" in done.stderr
    assert list((tmp_path / "home").rglob("cab.so"))
    assert required.returncode != 0
    assert "RAY_WARMUP=require" in required.stderr


def test_an_artifact_that_others_may_write_is_no_code_of_ours(tmp_path: Path) -> None:
    """A store that everybody can write is refused by name; under `auto` the engine compiles for itself."""
    environ = environment(tmp_path)
    recorded(tmp_path, environ).chmod(0o777)

    required = python(START, environ | {"RAY_WARMUP": "require"})

    assert required.returncode != 0
    assert "is not believed" in required.stderr
    assert python(START, environ).returncode == 0


def test_an_entry_of_the_engines_own_is_left_alone(tmp_path: Path) -> None:
    """What the engine has compiled for itself is never written over."""
    environ = environment(tmp_path)
    recorded(tmp_path, environ)
    own = tmp_path / "home" / ".cache" / "vllm" / "deep_gemm" / "cache" / "kernel.gemm"
    own.mkdir(parents=True)
    (own / "kernel.cubin").write_text("the engine's own")

    done = python(START, environ)

    assert done.returncode == 0, done.stderr
    assert (own / "kernel.cubin").read_text() == "the engine's own"


def test_an_entry_that_was_changed_after_placing_is_replaced(tmp_path: Path) -> None:
    """Ours is known by the register and compared by content, whatever its times say."""
    environ = environment(tmp_path)
    recorded(tmp_path, environ)
    assert python(START, environ).returncode == 0
    cubin = tmp_path / "home" / ".cache" / "vllm" / "deep_gemm" / "cache" / "kernel.gemm" / "kernel.cubin"
    assert "kernel.gemm" in placed.register(tmp_path / "root").of(cubin.parents[1], "deep_gemm")
    cubin.write_text("somebody else's code")

    done = python(START, environ)

    assert done.returncode == 0, done.stderr
    assert cubin.read_text() == "gemm"
    assert "was changed after it was put there and is replaced" in done.stderr


def test_a_start_tells_its_own_time(tmp_path: Path) -> None:
    """The seconds spent in this project's code are in the record of a start that was asked for one."""
    environ = environment(tmp_path)
    recorded(tmp_path, environ)
    told = tmp_path / "told"
    told.mkdir()

    assert python(START, environ | {"RAY_WARMUP_PROOF": str(told)}).returncode == 0

    assert 0 < counts(told)["own_seconds"] < 30
    assert counts(told)["lookup"] == "hit"
