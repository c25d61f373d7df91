"""The plugin in SGLang's processes: light when it is loaded, harmless whatever goes wrong, silent when off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ray_warmup.configs.engine_schema import SglangSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.launcher.recording import record
from ray_warmup.warmup.engines.node.installed import hidden_plugin
from ray_warmup.warmup.engines.sglang import process
from ray_warmup.warmup.engines.sglang.adapter import SGLANG_ADAPTER
from tests.engines.fake_engine import environment
from tests.engines.fetch import requirements
from tests.engines.fetched import source_of
from tests.unit.warmup.engines.vllm.test_plugin import HEAVY, INSTALL

START = """
import argparse, json, sys
if __name__ == "__main__":
    from sglang import Engine
    from sglang.srt.server_args import ServerArgs
    engine = Engine(server_args=ServerArgs(model_path="/models/fake"))
    answers = engine.generate(input_ids=[[1]], sampling_params=[{}])
    engine.shutdown()
    print(json.dumps({"answers": len(answers), "mine": "ray_warmup" in sys.modules}))
"""


def python(code: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a child to its end. A file, because SGLang's schedulers import the main module again."""
    path = Path(environ["TMPDIR"]) / "start_sglang.py"
    path.write_text(code)
    return subprocess.run([sys.executable, str(path)], env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache root with an artifact of the fake engine, recorded once for all tests."""
    base = tmp_path_factory.mktemp("recorded")
    section = SglangSection(kind="sglang", args={"model": "/models/fake"}, start_deadline=60)
    record(section, CacheSection(root=str(base / "root")), environment(base, "sglang"))
    return base / "root"


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    """The store of a node that holds the artifact."""
    shutil.copytree(template, tmp_path / "root")
    (found,) = (tmp_path / "root" / "engine_caches" / "sglang" / "0.5.23").iterdir()
    return found


def test_loading_the_plugin_costs_nothing(tmp_path: Path) -> None:
    """Under 50 ms of its own: no torch, no Ray, no pydantic, no command line, and no file but its own code."""
    code = INSTALL.replace("engines.vllm", "engines.sglang").replace("HEAVY", repr(HEAVY))
    done = python(code, environment(tmp_path, "sglang"))
    assert (done.returncode, done.stdout.strip()) == (0, "True [] []"), done.stderr


def test_off_installs_nothing(tmp_path: Path) -> None:
    """`RAY_WARMUP=off` leaves every function of the engine as it is."""
    done = python(START, environment(tmp_path, "sglang", RAY_WARMUP="off"))
    assert (done.returncode, "ray-warmup" in done.stderr) == (0, False), done.stderr


def test_under_auto_an_engine_starts_without_an_artifact(tmp_path: Path) -> None:
    """Nothing was recorded: the engine compiles for itself, and one line says why where its logs are."""
    done = python(START, environment(tmp_path, "sglang"))
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "ray-warmup" in line]
    assert len(said) == 1
    assert "this start compiles for itself: nothing was recorded for sglang 0.5.23 on this node" in said[0]


def test_a_serving_start_gets_every_entry_where_sglang_looks(tmp_path: Path, store: Path) -> None:
    """By SGLang's own start, with no variable set: below ~/.cache/sglang, and the detokenizer's share is nothing."""
    environ = environment(tmp_path, "sglang", RAY_WARMUP="require")
    done = python(START, environ)

    assert (done.returncode, json.loads(done.stdout)["answers"]) == (0, 1), done.stderr
    base = tmp_path / "home" / ".cache" / "sglang"
    placed = sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())
    assert placed == [
        "deep_gemm/cache/kernel.gemm/.committed",
        "deep_gemm/cache/kernel.gemm/kernel.cubin",
        "inductor/ef/cef.so",
        "jit/sm90/gelu/build-0123/deps-4567/gelu.so",
        "jit/sm90/gelu/build-0123/deps-4567/sgl_deps.json",
    ]
    assert not list(store.glob("refused.json"))


@pytest.mark.usefixtures("store")
def test_require_names_what_differs(tmp_path: Path) -> None:
    """A start of other arguments fails, with the setting and both values."""
    environ = environment(tmp_path, "sglang", RAY_WARMUP="require")
    done = python(START.replace('model_path="/models/fake"', 'model_path="/m", max_running_requests=4'), environ)

    assert done.returncode != 0
    assert "RAY_WARMUP=require: placing caches: server_args.max_running_requests 4, recorded 8" in done.stderr


def test_what_hides_the_plugin_is_said_with_the_remedy() -> None:
    """SGLANG_PLUGINS names who is loaded; empty, it names nobody and hides nobody."""
    assert "set SGLANG_PLUGINS=a,ray_warmup" in str(hidden_plugin(SGLANG_ADAPTER, {"SGLANG_PLUGINS": "a"}))
    assert "hides" not in str(hidden_plugin(SGLANG_ADAPTER, {"SGLANG_PLUGINS": ""}))
    assert "hides" not in str(hidden_plugin(SGLANG_ADAPTER, {"SGLANG_PLUGINS": "a, ray_warmup"}))


def test_ranks_of_one_engine_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their parent, or in Ray's actors by the address at which they meet; a name is part of a file's name."""
    address = {"dist_init_addr": "tcp://10.0.0.1:30123"}
    assert process.engine_name(address) == process.engine_name({}) == str(os.getppid())
    monkeypatch.setattr(process, "is_connected", lambda: True)
    name = process.engine_name(address)
    assert name == process.engine_name(dict(address))
    assert name.isalnum()
    assert name != process.engine_name({"dist_init_addr": "tcp://10.0.0.1:30124"})
    assert process.engine_name({"dist_init_addr": None}) == ""


@pytest.mark.parametrize("requirement", requirements("sglang"))
def test_sglang_tells_each_actor_the_address_of_its_engine(requirement: str) -> None:
    """Its scheduler in an actor of Ray's declares it, so the resolved arguments have it."""
    text = source_of(requirement).text("sglang/srt/ray/scheduler_actor.py")
    assert '"ray.scheduler_actor", dist_init_addr=dist_init_addr' in " ".join(text.split())
    engine = source_of(requirement).text("sglang/srt/ray/engine.py")
    assert 'dist_init_addr = f"{rank0_node_ip}:{port_args.nccl_port}"' in engine
