"""`WarmEngine` and what it relies on, read in Ray's own source.

python -m tests.engines.fetch ray==2.60.0 vllm==0.29.0       (the contract tests read the wheels)
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import zipfile
from typing import Any

import pytest
import ray

from ray_warmup.actors import serve_llm
from ray_warmup.actors.joining.serve_llm_contract import CALLBACKS, CONFIG, ENGINE, SERVE_LLM, refusal_of
from ray_warmup.actors.serve_llm import WarmEngine
from ray_warmup.configs.errors import ConfigError
from ray_warmup.warmup.engines.vllm.versions import VLLM
from ray_warmup.warmup.errors import EngineError
from tests.engines.fetch import requirements
from tests.engines.fetched import source_of
from tests.engines.serve_llm_line import RESULT, WANTED
from tests.engines.wheel_source import WheelSource


@pytest.fixture(params=requirements("ray"))
def wheel(request: pytest.FixtureRequest) -> WheelSource:
    """One released Ray."""
    return source_of(request.param)


def test_what_is_used_is_as_it_was_read(wheel: WheelSource) -> None:
    """Functions with their parameters, and every word that the callback depends on."""
    assert SERVE_LLM.differences(wheel.version, wheel.text_or_none) == ()


def calls_in(function: ast.stmt) -> list[str]:
    """What a function calls, in the order of its lines."""
    found = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return [ast.unparse(node) for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))]


def test_the_callback_runs_before_vllm_is_configured(wheel: WheelSource) -> None:
    """`VLLMEngine.start` runs it first, then makes the engine's configuration, then starts the engine."""
    start = wheel.definition(ENGINE, "VLLMEngine.start")
    assert start is not None
    calls = calls_in(start)
    order = [
        calls.index("callback.run_callback('on_before_node_init')"),
        calls.index("self._prepare_engine_config(callback.ctx)"),
        next(index for index, call in enumerate(calls) if call.startswith("self._start_async_llm_engine(")),
    ]
    assert order == sorted(order)


def test_the_runtime_environment_is_that_of_the_task_that_configures_vllm(wheel: WheelSource) -> None:
    """`_prepare_engine_config` gives it to the remote `_get_vllm_engine_config`, whose environment vLLM reads."""
    prepare = wheel.definition(ENGINE, "VLLMEngine._prepare_engine_config")
    assert prepare is not None
    assert "ray.remote(_get_vllm_engine_config).options(**remote_options)" in calls_in(prepare)
    (options,) = [
        node.value
        for node in ast.walk(prepare)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "remote_options"
    ]
    assert isinstance(options, ast.Dict)
    names = [None if key is None else ast.literal_eval(key) for key in options.keys]
    assert ast.unparse(options.values[names.index("runtime_env")]) == "callback_ctx.runtime_env"


def test_nothing_else_runs_it(wheel: WheelSource) -> None:
    """No other file of Ray names `on_before_node_init`: it runs in the replica and in no worker."""
    with zipfile.ZipFile(wheel.path) as archive:
        files = [name for name in archive.namelist() if name.startswith("ray/") and name.endswith(".py")]
        users = {name for name in files if b"on_before_node_init" in archive.read(name)}
    assert {name for name in users if "/examples/" not in name and "/tests/" not in name} == {CALLBACKS, ENGINE}


def test_the_pinned_vllm_is_one_that_is_served(wheel: WheelSource) -> None:
    """By the wheel's own requirements."""
    with zipfile.ZipFile(wheel.path) as archive:
        lines = archive.read(f"ray-{wheel.version}.dist-info/METADATA").decode().splitlines()
    (pin,) = [line for line in lines if line.startswith("Requires-Dist: vllm") and 'extra == "llm"' in line]
    version = pin.partition("==")[2].partition(";")[0].strip()
    assert version in VLLM.versions


@pytest.mark.parametrize("requirement", requirements("vllm"))
def test_vllm_gives_its_workers_the_environment_of_that_task(requirement: str) -> None:
    """`create_engine_config` reads Ray's runtime environment, and the executor for Ray starts its workers with it."""
    vllm = source_of(requirement)
    made = vllm.text("vllm/engine/arg_utils.py")
    assert "ray_runtime_env = ray.get_runtime_context().runtime_env" in made
    assert "ray_runtime_env=ray_runtime_env," in made
    executors = [f"vllm/v1/executor/{name}.py" for name in ("ray_executor_v2", "ray_executor", "ray_utils")]
    texts = [text for text in map(vllm.text_or_none, executors) if text is not None]
    assert any("parallel_config.ray_runtime_env" in text for text in texts)


def test_planted_differences_are_found(wheel: WheelSource) -> None:
    """Each file that is used, changed in what is used of it."""
    planted = {
        CALLBACKS: ("ctx_kwargs: Optional", "context: Optional"),
        CONFIG: ('"runtime_env": runtime_env,', ""),
        ENGINE: ('run_callback("on_before_node_init")', 'run_callback("before")'),
    }
    for file, (old, new) in planted.items():

        def read(name: str, file: str = file, old: str = old, new: str = new) -> str | None:
            text = wheel.text_or_none(name)
            return text.replace(old, new) if text is not None and name == file else text

        assert SERVE_LLM.differences(wheel.version, read), file


@pytest.mark.parametrize(("version", "vllm"), [("2.58.0", "0.26.0"), ("2.58.1", "0.26.0"), ("2.59.0", "0.27.0")])
def test_a_ray_whose_engine_is_not_served_is_refused_by_name(
    version: str, vllm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the engine, and the Ray that would do."""
    monkeypatch.setattr(ray, "__version__", version)
    with pytest.raises(EngineError, match=rf"^Ray {version} pins vLLM {vllm} .* use Ray 2\.60\.0$"):
        WarmEngine(llm_config=None)


def test_a_ray_that_was_not_read_is_refused() -> None:
    """A later one."""
    assert refusal_of("2.60.0") == ""
    assert "Ray Serve LLM of Ray 2.99.0 is not known" in refusal_of("2.99.0")


@pytest.fixture
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Ray 2.60; the callbacks' base is the installed Ray's own."""
    monkeypatch.setattr(serve_llm, "refusal_of", lambda version: "")
    monkeypatch.setenv("RAY_WARMUP", "off")
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", "/before")


@pytest.mark.usefixtures("_served")
@pytest.mark.parametrize("runtime_env", [None, {}, {"pip": ["x"], "env_vars": {"A": "1", "RAY_WARMUP": "require"}}])
def test_the_runtime_environment_is_set(runtime_env: dict[str, Any] | None) -> None:
    """Through Ray's own `run_callback`; what a deployment sets itself stays, in the replica, too."""
    callback = WarmEngine(llm_config=None, ctx_kwargs={"runtime_env": runtime_env}, cache_root="~/cache")
    asyncio.run(callback.run_callback("on_before_node_init"))
    mode = "require" if runtime_env else "auto"
    before = dict(runtime_env or {})
    variables = {**before.pop("env_vars", {}), "RAY_WARMUP": mode, "RAY_WARMUP_CACHE_ROOT": "~/cache"}
    assert callback.ctx.runtime_env == {**before, "env_vars": variables}
    assert (os.environ["RAY_WARMUP"], os.environ["RAY_WARMUP_CACHE_ROOT"]) == (mode, "~/cache")


@pytest.mark.usefixtures("_served")
def test_a_wrong_mode_is_named() -> None:
    """With the modes that there are."""
    with pytest.raises(ConfigError, match=r"callback_kwargs\.mode: .*always.*: must be one of auto, off, require"):
        WarmEngine(llm_config=None, mode="always")


def test_the_line_was_given_to_rays_own_config() -> None:
    """`python -m tests.engines.serve_llm_line PYTHON` ran with a Ray that is served: the callback is made, sets the
    variables in the runtime environment and the replica, and goes along with the config."""
    result = json.loads(RESULT.read_text())
    assert refusal_of(result["ray"]) == ""
    assert {name: result[name] for name in WANTED} == WANTED
