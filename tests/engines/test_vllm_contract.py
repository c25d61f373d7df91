"""What the vLLM adapter relies on, read in the released wheel: names, signatures, directories, compile factors.

Fetch the wheel first: `python -m tests.engines.fetch`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.configs.vllm_arguments import NOT_COVERED, OURS, SERVERS, SHORT
from ray_warmup.warmup.engines.start.failure_causes import CAUSES
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER
from ray_warmup.warmup.engines.vllm.arguments import SIZES
from ray_warmup.warmup.engines.vllm.factors import BEFORE_0_33, MAY_DIFFER
from ray_warmup.warmup.engines.vllm.versions import VLLM
from ray_warmup.warmup.families.version_order import order
from tests.engines.fetch import requirements
from tests.engines.fetched import source_of
from tests.engines.wheel_source import WheelSource

SERVER_ARGUMENTS = ("vllm/entrypoints/common/cli_args.py", "vllm/entrypoints/launchers/cli_args.py")
OUR_VARIABLES = {"RAY_WARMUP", "RAY_WARMUP_RECORD", "RAY_WARMUP_PROOF", "RAY_WARMUP_CACHE_ROOT", "PYTHONPATH"}


@pytest.fixture(params=requirements("vllm"))
def wheel(request: pytest.FixtureRequest) -> WheelSource:
    """One released vLLM."""
    return source_of(request.param)


def test_what_is_used_is_as_it_was_read(wheel: WheelSource) -> None:
    """Functions with their parameters, and every word that the adapter repeats, stand in vLLM's own source."""
    assert VLLM.differences(wheel.version, wheel.text_or_none) == ()


def test_an_invented_difference_is_found(wheel: WheelSource) -> None:
    """The check above can fail: on a file, a name, a parameter and a word."""
    planted = replace(
        VLLM,
        functions={
            "vllm/envs.py": {"compile_nothing": ()},
            "vllm/compilation/decorators.py": {"_model_hash_key": ("fn", "rank")},
            "vllm/nowhere.py": {"f": ()},
        },
        words={"vllm/usage/usage_lib.py": ("PLANTED",)},
        changed={},
    )
    assert planted.differences(wheel.version, wheel.text_or_none) == (
        "vllm/envs.py has no compile_nothing",
        "_model_hash_key(fn) instead of (fn, rank)",
        "no vllm/nowhere.py",
        "vllm/usage/usage_lib.py has no PLANTED",
    )


def test_a_smaller_cache_enters_no_key_and_no_saved_plan(wheel: WheelSource) -> None:
    """The number of blocks is an option that planning reads, that no key has, and that no saved profile holds."""
    planning = "vllm/v1/core/kv_cache_planning.py"
    if wheel.text_or_none(planning) is None:
        planning = "vllm/v1/core/kv_cache_utils.py"
    planned = wheel.definition(planning, "get_kv_cache_configs")
    key = wheel.definition("vllm/config/cache.py", "CacheConfig.compute_hash")
    assert planned is not None
    assert key is not None
    assert "override = vllm_config.cache_config.num_gpu_blocks_override" in ast.unparse(planned)
    for left_out in ("'num_gpu_blocks_override'", "'num_gpu_blocks'", "'kv_cache_memory_bytes'"):
        assert left_out in ast.unparse(key)

    saved = "kv_cache_memory_bytes_to_requested_limit"
    assigned = []
    for node in ast.walk(wheel.tree("vllm/v1/worker/gpu_worker.py")):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == saved:
            assigned.append(ast.unparse(node.value))
    assert assigned == ["int(self.requested_memory) - non_kv_cache_memory - redundancy_buffer_memory"]
    assert f"maybe_save_startup_plan(self, {saved})" in wheel.text("vllm/v1/worker/gpu_worker.py")


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
    assert {name: long for name, long in SHORT.items() if name not in ("O", "asc", "model_tag")} == found


def test_arguments_of_the_server_are_known(wheel: WheelSource) -> None:
    """All that `vllm serve` takes beside the engine's arguments is left out of a config by name, and no more."""
    module = next(name for name in SERVER_ARGUMENTS if wheel.text_or_none(name) is not None)
    of_server = set(fields_of(wheel.tree(module), ("FrontendArgs", "BaseFrontendArgs")))
    of_server |= set(fields_of(wheel.tree("vllm/engine/arg_utils.py"), ("AsyncEngineArgs",)))
    of_engine = set(fields_of(wheel.tree("vllm/engine/arg_utils.py"), ("EngineArgs",)))
    assert len(of_server) > 40
    # The engine's own since 0.31.
    of_server -= {"enable_flash_late_interaction", "log_config_file"}
    assert of_server - of_engine - {*SERVERS, *OURS, *NOT_COVERED} == set()
    assert of_engine & set(SERVERS) == set()


def fields_of(tree: ast.Module, classes: tuple[str, ...]) -> Iterator[str]:
    """Fields of some classes of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id


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


@pytest.mark.parametrize(
    "said",
    [
        "No available memory for the cache blocks",
        "Free memory on device .* is less than desired GPU memory utilization",
        "KV cache is needed, which is larger than the available KV cache memory",
        "Failed to infer device type",
    ],
)
def test_what_names_a_cause_is_said_by_vllm(wheel: WheelSource, said: str) -> None:
    """Each sentence by which the cause of a failed start is known stands in vLLM's source."""
    assert any(said in pattern.pattern.split("|") for pattern, _ in CAUSES)
    assert any(re.search(said, text) for text in sentences_of(wheel))


@functools.cache
def sentences_of(wheel: WheelSource) -> tuple[str, ...]:
    """Texts of the modules that look at devices and memory, without what is filled in."""
    found = []
    for module in wheel.modules("vllm/v1/core/kv_cache_", "vllm/v1/worker/utils.py", "vllm/config/device.py"):
        for node in ast.walk(wheel.tree(module)):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


def test_a_library_start_defaults_as_engine_args_do(wheel: WheelSource) -> None:
    """`LLM` gets every field of `EngineArgs`, so a default of its own could only change what is not passed."""
    made = wheel.definition("vllm/entrypoints/llm.py", "LLM.from_engine_args")
    assert made is not None
    assert "cls(**vars(engine_args))" in ast.unparse(made)


def test_what_may_differ_is_hashed_by_vllm(wheel: WheelSource) -> None:
    """A variable that vLLM leaves out itself needs no exception of ours; the newest release knows every one."""
    known, ignored = hashed_variables(wheel)
    noset = {name for name in MAY_DIFFER if name.startswith("RAY_EXPERIMENTAL_NOSET_")}
    assert noset
    not_hashed = set(MAY_DIFFER) - noset - (known - ignored)
    assert sorted(not_hashed & known) == []
    assert (set(BEFORE_0_33) <= known - ignored) == (order(wheel.version) < (0, 33))
    assert wheel.version != requirements("vllm")[-1].partition("==")[2] or not_hashed == set()
    assert all(name in wheel.text("vllm/envs.py") for name in noset)


def test_a_launch_sets_no_compile_factor(wheel: WheelSource) -> None:
    """No variable of ours makes another compile key than a start without us has."""
    known, ignored = hashed_variables(wheel)
    ours = set(VLLM_ADAPTER.home(Path("/home"))) | OUR_VARIABLES
    assert sorted(ours & (known - ignored)) == []
    assert "VLLM_PLUGINS" in known - ignored, "setting it would have been found"
