"""The plugin in an engine's processes: light when it is loaded, harmless whatever goes wrong, silent when off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.caches import placed
from ray_warmup.warmup.engines.launcher.recording import record
from ray_warmup.warmup.engines.node.installed import hidden_plugin
from ray_warmup.warmup.engines.vllm import hooks
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER
from tests.engines.fake_engine import environment

START = """
import json, sys, vllm
llm = vllm.LLM(load_format="dummy", skip_tokenizer_init=True, model="/models/fake", max_num_batched_tokens=96)
print(json.dumps({"hooked": hasattr(vllm.v1.worker.worker_base.WorkerWrapperBase.init_device, "__wrapped__")}))
"""
"""An engine of the size that was recorded: the one that the fake engine's server defaults to."""
INSTALL = """
import logging, importlib.machinery, dataclasses, sys, time
sys.dont_write_bytecode = True
opened, began = [], time.process_time()
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from ray_warmup.warmup.engines.vllm import plugin
plugin.register()
seconds = time.process_time() - began
read = [path for path in opened if not path.endswith((".py", ".pyc"))]
print(seconds < 0.05, read, [name for name in HEAVY if name in sys.modules])
"""
"""Loading the plugin: processor seconds, because the machine may be busy."""
HEAVY = ("torch", "ray", "pydantic", "typer", "rich", "numpy", "flashinfer", "triton")


def python(code: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a child to its end."""
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache root with an artifact of the fake engine, recorded once for all tests."""
    base = tmp_path_factory.mktemp("recorded")
    section = VllmSection(kind="vllm", args={"model": "/models/fake"}, start_deadline=60)
    record(section, CacheSection(root=str(base / "root")), environment(base))
    return base / "root"


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    """The store of a node that holds the artifact."""
    shutil.copytree(template, tmp_path / "root")
    (found,) = (tmp_path / "root" / "engine_caches" / "vllm" / "0.33.0").iterdir()
    return found


def counts(home: Path) -> dict[str, Any]:
    """What a proof directory says of rank 0."""
    told: dict[str, Any] = json.loads((home / "rank_0.json").read_text())
    return told


def test_loading_the_plugin_costs_nothing(tmp_path: Path) -> None:
    """Under 50 ms of its own: no torch, no Ray, no pydantic, no command line, and no file but its own code."""
    done = python(INSTALL.replace("HEAVY", repr(HEAVY)), environment(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (0, "True [] []"), done.stderr


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


def test_under_auto_a_damaged_artifact_is_one_log_line(tmp_path: Path, store: Path) -> None:
    """Blobs that are not what they should be: a warning, and the engine's own path; `require` fails the start."""
    environ = environment(tmp_path)
    for blob in (store / "blobs").iterdir():
        blob.write_bytes(b"damaged")

    done = python(START, environ)
    required = python(START, environ | {"RAY_WARMUP": "require"})

    assert done.returncode == 0, done.stderr
    assert "so the engine starts as without it" in done.stderr
    assert list((tmp_path / "home").rglob("cab.so"))
    assert required.returncode != 0
    assert "RAY_WARMUP=require" in required.stderr


def test_an_artifact_that_others_may_write_is_no_code_of_ours(tmp_path: Path, store: Path) -> None:
    """A store that everybody can write is refused by name; under `auto` the engine compiles for itself."""
    environ = environment(tmp_path)
    store.chmod(0o777)

    required = python(START, environ | {"RAY_WARMUP": "require"})

    assert required.returncode != 0
    assert "is not believed" in required.stderr
    assert python(START, environ).returncode == 0


@pytest.mark.usefixtures("store")
def test_an_entry_of_the_engines_own_is_left_alone(tmp_path: Path) -> None:
    """What the engine has compiled for itself is never written over."""
    environ = environment(tmp_path)
    own = tmp_path / "home" / ".cache" / "vllm" / "deep_gemm" / "cache" / "kernel.gemm"
    own.mkdir(parents=True)
    (own / "kernel.cubin").write_text("the engine's own")
    (own / ".committed").touch()

    done = python(START, environ)

    assert done.returncode == 0, done.stderr
    assert (own / "kernel.cubin").read_text() == "the engine's own"


@pytest.mark.usefixtures("store")
def test_an_entry_that_was_changed_after_placing_is_replaced(tmp_path: Path) -> None:
    """Ours is known by the register and compared by content, whatever its times say."""
    environ = environment(tmp_path)
    assert python(START, environ).returncode == 0
    cubin = tmp_path / "home" / ".cache" / "vllm" / "deep_gemm" / "cache" / "kernel.gemm" / "kernel.cubin"
    assert "kernel.gemm" in placed.register(tmp_path / "root").of(cubin.parents[1], "deep_gemm")
    cubin.write_text("somebody else's code")

    done = python(START, environ)

    assert done.returncode == 0, done.stderr
    assert cubin.read_text() == "gemm"
    assert "was changed after it was put there and is replaced" in done.stderr


@pytest.mark.usefixtures("store")
def test_a_start_tells_its_own_time(tmp_path: Path) -> None:
    """The seconds spent in this project's code are in the record of a start that was asked for one."""
    environ = environment(tmp_path)
    told = tmp_path / "told"
    told.mkdir()

    assert python(START, environ | {"RAY_WARMUP_PROOF": str(told)}).returncode == 0

    assert 0 < counts(told)["own_seconds"] < 30
    assert counts(told)["lookup"] == "hit"


@pytest.mark.usefixtures("store")
def test_neither_the_command_line_nor_a_users_folders_get_into_an_engine(tmp_path: Path) -> None:
    """A start that finds everything imports no Ray and no command line, and meets no `configs/` of somebody else."""
    environ = environment(tmp_path)
    for folder in ("configs", "actors", "warmup", "scripts"):
        (tmp_path / "app" / folder).mkdir(parents=True)
        (tmp_path / "app" / folder / "__init__.py").write_text("raise RuntimeError('the application has its own')")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path / 'app')!r})\n{START}"
    code += "print([name for name in sys.modules if name.startswith(('ray.', 'typer', 'ray_warmup.scripts'))])\n"
    code += "print([name for name in sys.modules if name.startswith('ray_warmup.actors')])"

    done = python(code, environ | {"RAY_WARMUP": "require"})

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["[]", "[]"]


def test_the_front_end_places_facts_of_models_alone(tmp_path: Path, template: Path) -> None:
    """Whether anything was recorded or not, `require` judges nothing there, and no thread of ours runs."""
    inspect = "import threading, vllm\nvllm.load_general_plugins()\n"
    inspect += "from vllm.model_executor.models.registry import _LazyRegisteredModel\n"
    inspect += "print(_LazyRegisteredModel('fake_model', 'FakeForCausalLM').inspect_model_cls())\n"
    inspect += "print(threading.active_count())"
    environ = environment(tmp_path, RAY_WARMUP="require")
    before = python(inspect, environ | {"HOME": str(tmp_path / "other")})
    shutil.copytree(template, tmp_path / "root")
    after = python(inspect, environ)

    assert (before.returncode, after.returncode) == (0, 0), before.stderr + after.stderr
    assert after.stdout.splitlines()[-1] == "1"
    placed_there = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path.name for path in placed_there] == ["fake_model-FakeForCausalLM.json"]
    assert not list((tmp_path / "root").rglob("leases/*.json"))


def test_stale_facts_of_a_model_are_not_placed(tmp_path: Path, store: Path) -> None:
    """Recorded of another source of the model's class: vLLM inspects it anew, and finds those of its own source."""
    ask = "import vllm\nvllm.load_general_plugins()\n"
    ask += "from vllm.model_executor.models.registry import _LazyRegisteredModel\n"
    ask += "model = _LazyRegisteredModel('fake_model', 'FakeForCausalLM')\n"
    ask += "print([model._load_modelinfo_from_cache(source) is not None for source in ('changed', 'hash')])"

    done = python(ask, environment(tmp_path))

    assert done.stdout.splitlines()[-1:] == ["[False, True]"], done.stderr


def test_a_forked_child_holds_the_artifact_for_itself(tmp_path: Path, store: Path) -> None:
    """One lease a process, and a thread that renews it in each; before the worker begins there is none."""
    environ = environment(tmp_path)
    code = "import os, threading\nbefore = threading.active_count()\n" + START
    code += f"leases = lambda: len([name for name in os.listdir({str(store / 'leases')!r}) if name[0] != '.'])\n"
    code += "threads = lambda: sum(thread.name == 'ray-warmup-lease' for thread in threading.enumerate())\n"
    code += "print(before, leases(), threads(), flush=True)\n"
    code += "if os.fork() == 0:\n    print(leases(), threads(), flush=True)\n    os._exit(0)\nos.wait()\n"

    done = python(code, environ)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["1 1 1", "2 1"]


@pytest.mark.usefixtures("store")
def test_the_users_cache_variables_are_honoured(tmp_path: Path) -> None:
    """Entries lie where the user's variables say, in the first of several directories, and nowhere else."""
    environ = environment(tmp_path)
    own = {"VLLM_CACHE_ROOT": f"{tmp_path}/v", "DG_JIT_CACHE_DIR": f"{tmp_path}/a:{tmp_path}/b"}
    own["TORCHINDUCTOR_CACHE_DIR"] = f"{tmp_path}/i"

    done = python(START, environ | own | {"RAY_WARMUP": "require"})

    assert done.returncode == 0, done.stderr
    register = placed.register(tmp_path / "root")
    assert {Path(row.directory).relative_to(tmp_path).parts[0] for row in register.directories()} == {"v", "a", "i"}
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.usefixtures("store")
def test_a_full_disk_is_one_line_of_the_log(tmp_path: Path) -> None:
    """A round of placing that the disk refuses is one line for all its kinds; the engine compiles for itself."""
    environ = environment(tmp_path)
    refuse = "from ray_warmup.warmup.caches import placing\nfrom ray_warmup.warmup.errors import StoreError\n"
    refuse += "def full(*_, **__):\n    raise StoreError('No space left on device')\n"
    refuse += "placing.place_file = placing.place_directory = full\n"

    done = python(refuse + START, environ)

    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "ray-warmup:" in line]
    assert len(lines) == 3  # facts of the model, what needs no key, compiled files
    assert all("failed, so the engine starts as without it: StoreError: not placed: " in line for line in lines)
    assert "deep_gemm: No space left on device; inductor_home: No space left on device" in lines[1]
    assert "torch_compile: No space left on device; inductor: No space left on device" in lines[2]


@pytest.mark.usefixtures("store")
def test_two_engines_that_start_at_once_place_once(tmp_path: Path) -> None:
    """Both find everything, and every entry is registered."""
    environ = environment(tmp_path, RAY_WARMUP="require")
    starts = [
        subprocess.Popen([sys.executable, "-c", START], env=environ, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [start.communicate()[1] for start in starts]

    assert [start.returncode for start in starts] == [0, 0], ended
    entries = [entry for row in placed.register(tmp_path / "root").directories() for entry in row.entries]
    assert sorted(entry.name for entry in entries) == sorted(
        ["fake_model-FakeForCausalLM.json", "model", "ab/cab.so", "cd/ccd.so", "ef/cef.so", "kernel.gemm"]
    )


def test_a_version_that_was_not_read_is_left_alone(tmp_path: Path) -> None:
    """Named in one line under `auto`, the end of the start under `require`."""
    environ = environment(tmp_path, FAKE_VLLM_VERSION="0.99.0")
    assert "vLLM 0.99.0 is not known" in python(START, environ).stderr
    required = python(START, environ | {"RAY_WARMUP": "require"})
    assert required.returncode != 0
    assert "vLLM 0.99.0 is not known" in required.stderr


def test_variables_that_actors_lack_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM's data parallel actors get a list of variables; ours is not on it unless the user says so."""
    listed = {"HOME"}
    module = ModuleType("ray_env")
    module.get_env_vars_to_copy = lambda: listed  # type: ignore[attr-defined]
    hooks._wrap_copied_variables(module)
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", "/caches")
    assert module.get_env_vars_to_copy() == listed
    assert "set VLLM_RAY_EXTRA_ENV_VARS_TO_COPY=RAY_WARMUP_CACHE_ROOT" in caplog.text
    caplog.clear()
    listed.add("RAY_WARMUP_CACHE_ROOT")
    module.get_env_vars_to_copy()
    assert caplog.text == ""


def test_a_plugin_that_is_hidden_is_named_with_the_remedy() -> None:
    """A list of plugins without ours, and an empty one."""
    assert hidden_plugin(VLLM_ADAPTER, {}) is None
    assert hidden_plugin(VLLM_ADAPTER, {"VLLM_PLUGINS": "a, ray_warmup"}) is None
    assert "set VLLM_PLUGINS=a,ray_warmup" in str(hidden_plugin(VLLM_ADAPTER, {"VLLM_PLUGINS": "a"}))
    assert "set VLLM_PLUGINS=ray_warmup" in str(hidden_plugin(VLLM_ADAPTER, {"VLLM_PLUGINS": ""}))
