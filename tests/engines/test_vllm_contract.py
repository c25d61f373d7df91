"""What the vLLM adapter relies on, read in the released wheel: names, signatures, directories, compile factors.

Fetch the wheel first: `python -m tests.engines.fetch`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ray_warmup.configs.engine_arguments import SHORT
from ray_warmup.warmup.engines.vllm.arguments import SIZES
from ray_warmup.warmup.engines.vllm.factors import MAY_DIFFER
from ray_warmup.warmup.engines.vllm.launch import Home
from tests.engines.fetch import requirements, wheel_of
from tests.engines.wheel_source import WheelSource

OUR_VARIABLES = {"RAY_WARMUP", "RAY_WARMUP_RECORD", "RAY_WARMUP_PROOF", "RAY_WARMUP_CACHE_ROOT", "PYTHONPATH"}


@pytest.fixture(params=requirements("vllm"))
def wheel(request: pytest.FixtureRequest) -> WheelSource:
    """One released vLLM."""
    found = wheel_of(request.param)
    if found is None:
        pytest.skip(f"the wheel is not here: python -m tests.engines.fetch {request.param}")
    return WheelSource(found)


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("vllm/v1/worker/worker_base.py", "WorkerWrapperBase.init_device", ["self"]),
        ("vllm/v1/worker/gpu_worker.py", "Worker.compile_or_warm_up_model", ["self"]),
        ("vllm/compilation/decorators.py", "_try_load_aot_compiled_fn", ["model", "aot_compilation_path"]),
        ("vllm/compilation/decorators.py", "_model_hash_key", ["fn"]),
        (
            "vllm/model_executor/models/registry.py",
            "_LazyRegisteredModel._load_modelinfo_from_cache",
            ["self", "module_hash"],
        ),
        ("vllm/model_executor/models/registry.py", "_LazyRegisteredModel._get_cache_filename", ["self"]),
        ("vllm/engine/arg_utils.py", "EngineArgs.create_engine_config", ["self", "usage_context", "headless"]),
        ("vllm/engine/arg_utils.py", "EngineArgs.create_model_config", ["self"]),
        ("vllm/engine/arg_utils.py", "EngineArgs.add_cli_args", ["parser"]),
        ("vllm/engine/arg_utils.py", "EngineArgs.from_cli_args", ["cls", "args"]),
        ("vllm/entrypoints/llm.py", "LLM.from_engine_args", ["cls", "engine_args"]),
        ("vllm/config/model.py", "ModelConfig.maybe_untie_word_embeddings", ["self"]),
        ("vllm/transformers_utils/config.py", "checkpoint_has_lm_head", ["model"]),
        ("vllm/transformers_utils/repo_utils.py", "get_hf_file_bytes", ["file_name", "model", "revision"]),
        ("vllm/utils/argparse_utils.py", "FlexibleArgumentParser.error", ["self", "message"]),
        ("vllm/ray/ray_env.py", "get_env_vars_to_copy", ["exclude_vars", "additional_vars", "destination"]),
        ("vllm/utils/jit_monitor.py", "activate", []),
        ("vllm/plugins/__init__.py", "load_general_plugins", []),
        ("vllm/envs.py", "compile_factors", []),
        ("vllm/config/vllm.py", "VllmConfig.compute_hash", ["self", "include_version"]),
        ("vllm/config/model.py", "ModelConfig.compute_hash", ["self"]),
    ],
)
def test_wrapped_and_called_functions_are_there(
    wheel: WheelSource, module: str, name: str, parameters: list[str]
) -> None:
    """Each has the parameters with which it is called."""
    assert wheel.parameters(module, name) == parameters


def test_an_invented_function_is_missed(wheel: WheelSource) -> None:
    """The check above can fail: on a name, and on a parameter."""
    assert wheel.parameters("vllm/envs.py", "compile_nothing") is None
    assert wheel.parameters("vllm/compilation/decorators.py", "_model_hash_key") != ["fn", "rank"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "vllm/compilation/decorators.py",
            ('"torch_compile_cache"', '"torch_aot_compile"', '"inductor_cache"', 'f"rank_{rank}_{dp_rank}"', '"model"'),
        ),
        ("vllm/model_executor/models/registry.py", ('"modelinfos"',)),
        ("vllm/usage/usage_lib.py", ("class UsageContext", "OPENAI_API_SERVER", "LLM_CLASS")),
        ("vllm/compilation/counter.py", ("num_aot_compiles", "num_aot_artifacts_loaded")),
        ("vllm/plugins/__init__.py", ('"vllm.general_plugins"',)),
        ("vllm/utils/deep_gemm.py", ('"DG_JIT_CACHE_DIR"', '"deep_gemm"')),
        ("vllm/config/model.py", ("    checkpoint_has_lm_head,", "word_embeddings_untied_by_checkpoint")),
        ("vllm/model_executor/models/registry.py", ('"hash": module_hash',)),
    ],
)
def test_directories_and_names_are_as_placed(wheel: WheelSource, module: str, words: tuple[str, ...]) -> None:
    """Every word that the adapter repeats stands in vLLM's own source."""
    text = wheel.text(module)
    assert [word for word in words if word not in text] == []


def hashed_variables(wheel: WheelSource) -> tuple[set[str], set[str]]:
    """Variables that vLLM knows, and those of them that its compile key leaves out."""
    tree = wheel.tree("vllm/envs.py")
    known: set[str] = set()
    ignored: set[str] = set()
    for node in ast.walk(tree):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "environment_variables" and isinstance(node.value, ast.Dict):
            known |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
        if isinstance(target, ast.Name) and target.id == "ignored_factors" and isinstance(node.value, ast.Set):
            ignored |= {item.value for item in node.value.elts if isinstance(item, ast.Constant)}
    assert len(known) > 100
    assert len(ignored) > 50
    return known, ignored


def test_short_options_are_the_engines(wheel: WheelSource) -> None:
    """Every one-dash option of vLLM's engine arguments leads to its long name, and no other is known."""
    found: dict[str, str] = {}
    for node in ast.walk(wheel.tree("vllm/engine/arg_utils.py")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            options = [str(one.value) for one in node.args if isinstance(one, ast.Constant)]
            long = next((one for one in options if one.startswith("--")), "")
            short = [one for one in options if one.startswith("-") and not one.startswith("--")]
            found |= {one.removeprefix("-"): long.removeprefix("--").replace("-", "_") for one in short}
    assert len(found) > 10
    assert {name: long for name, long in SHORT.items() if name not in ("O", "model_tag")} == found


def test_whoever_starts_the_engine_decides_on_sizes_alone(wheel: WheelSource) -> None:
    """The usage is read for the default sizes of a step, which a start resolves as the server does."""
    readers = set()
    for node in ast.walk(wheel.tree("vllm/engine/arg_utils.py")):
        if isinstance(node, ast.FunctionDef):
            names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            if "usage_context" in names:
                readers.add(node.name)
    assert readers == {"create_engine_config", "_set_default_max_num_seqs_and_batched_tokens_args"}
    source = ast.unparse(wheel.tree("vllm/engine/arg_utils.py"))
    assert all(f"self.{name} = " in source for name in SIZES)


def test_a_library_start_defaults_as_engine_args_do(wheel: WheelSource) -> None:
    """`LLM` gets every field of `EngineArgs`, so a default of its own could only change what is not passed."""
    made = wheel.definition("vllm/entrypoints/llm.py", "LLM.from_engine_args")
    assert made is not None
    assert "cls(**vars(engine_args))" in ast.unparse(made)


def test_what_may_differ_is_hashed_by_vllm(wheel: WheelSource) -> None:
    """A variable that vLLM leaves out itself, or does not know, needs no exception of ours."""
    known, ignored = hashed_variables(wheel)
    noset = {name for name in MAY_DIFFER if name.startswith("RAY_EXPERIMENTAL_NOSET_")}
    assert noset
    assert sorted(set(MAY_DIFFER) - noset - (known - ignored)) == []
    assert all(name in wheel.text("vllm/envs.py") for name in noset)


def test_a_launch_sets_no_compile_factor(wheel: WheelSource) -> None:
    """No variable of ours makes another compile key than a start without us has."""
    known, ignored = hashed_variables(wheel)
    ours = set(Home(Path("/home")).variables()) | OUR_VARIABLES
    assert sorted(ours & (known - ignored)) == []
    assert "VLLM_PLUGINS" in known - ignored, "setting it would have been found"
