"""What each family of FlashInfer says of its releases, read in the released wheels.

Fetch them first: `python -m tests.engines.fetch`, and the others with
`python -m tests.engines.fetch flashinfer-python`.
"""

from __future__ import annotations

import ast

import pytest

from ray_warmup.warmup.families.known import FAMILIES
from ray_warmup.warmup.families.seam_set import SeamSet
from tests.engines.fetched import source_of
from tests.engines.wheel_source import WheelSource

AUTOTUNER = "flashinfer/autotuner/autotuner.py"
ENVIRONMENT = "flashinfer/jit/env.py"
MOE = "flashinfer/fused_moe/core.py"
GPU_KERNELS = "flashinfer/gdn_kernels/gdn_decode_bf16_state.py"
RELEASES = [(family, version) for family in FAMILIES for version in family.versions]


@pytest.fixture(params=RELEASES, ids=[version for _, version in RELEASES])
def release(request: pytest.FixtureRequest) -> tuple[SeamSet, WheelSource]:
    """A family and one of its released wheels."""
    family, version = request.param
    return family, source_of(f"flashinfer-python=={version}")


Release = tuple[SeamSet, WheelSource]


def test_methods_and_functions_have_their_parameters(release: Release) -> None:
    """Every seam is there with the parameters that the family names."""
    family, wheel = release
    found = {name: wheel.all_parameters(AUTOTUNER, f"AutoTuner.{name}") for name in family.methods}
    found |= {name: wheel.all_parameters(AUTOTUNER, name) for name in family.functions}
    assert found == {**family.methods, **family.functions}


def test_what_a_family_lacks_is_not_there(release: Release) -> None:
    """A seam that only later releases have does not exist, so that its absence is no oversight."""
    family, wheel = release
    newest = FAMILIES[-1]
    for name in newest.methods.keys() - family.methods.keys():
        assert wheel.all_parameters(AUTOTUNER, f"AutoTuner.{name}") is None
    for name in newest.functions.keys() - family.functions.keys():
        assert wheel.all_parameters(AUTOTUNER, name) is None


def test_attributes_are_set_or_computed(release: Release) -> None:
    """Each attribute is assigned when an AutoTuner is made, or a property; those of later families are not there."""
    family, wheel = release
    tuner = wheel.definition(AUTOTUNER, "AutoTuner")
    found = {
        node.attr for node in ast.walk(tuner) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    found |= {node.name for node in tuner.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    wanted = set(FAMILIES[-1].attributes)
    assert wanted & found == set(family.attributes)


def test_keys_have_their_fields(release: Release) -> None:
    """A key in memory has the fields, and its file key the four parts that a table's reader takes apart."""
    family, wheel = release
    body = wheel.definition(AUTOTUNER, "ProfilingCacheKey").body
    fields = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
    assert tuple(fields) == family.key_fields
    text = ast.unparse(wheel.definition(AUTOTUNER, "ProfilingCacheKey"))
    assert "self.custom_op, self.runner_class_name, self.nearest_profile, self.extras" in text


def test_metadata_has_its_fields(release: Release) -> None:
    """`_collect_metadata` assigns exactly these names."""
    family, wheel = release
    collect = wheel.definition(AUTOTUNER, "_collect_metadata")
    assigned = [
        target.slice.value
        for node in ast.walk(collect)
        for target in (node.targets if isinstance(node, ast.Assign) else ())
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant)
    ]
    assert tuple(dict.fromkeys(assigned)) == family.metadata_fields


def test_entries_have_their_columns(release: Release) -> None:
    """The third column is written by `save_configs` where the family says so, and nowhere else."""
    family, wheel = release
    written = ast.unparse(wheel.definition(AUTOTUNER, "AutoTuner.save_configs"))
    assert ("].append(policy)" in written) == (family.entry_width == 3)


def test_ranks_are_in_the_keys_as_the_family_says(release: Release) -> None:
    """The extras of the CUTLASS MoE runner's keys name all three ranks, or none."""
    family, wheel = release
    extras = [
        ast.unparse(node)
        for node in ast.walk(wheel.tree(MOE))
        if isinstance(node, ast.FunctionDef)
        and node.name == "get_cache_key_extras"
        and "self.tp_size" in ast.unparse(node)
    ]
    assert extras, "the runner was not found"
    ranks = [
        rank for rank in ("self.tp_rank", "self.ep_rank", "self.cluster_rank") if any(rank in text for text in extras)
    ]
    assert len(ranks) == (3 if family.ranks_in_moe_keys else 0)


def test_modules_are_found_as_the_family_says(release: Release) -> None:
    """Before 0.7 one directory, afterwards providers; both through a package of the same name."""
    family, wheel = release
    text = wheel.text(ENVIRONMENT)
    has_providers = "get_jit_cache_providers()" in text and "class AOTProvider" in text
    assert has_providers == (family.modules_through == "providers")
    assert ("flashinfer_jit_cache.get_jit_cache_dir()" in text) == (family.modules_through == "one directory")


def test_a_gpu_is_asked_for_at_import_as_the_family_says(release: Release) -> None:
    """The question stands at the top of a module of GPU kernels, and that module is imported by the package."""
    family, wheel = release
    asks = [
        node for node in wheel.tree(GPU_KERNELS).body
        if isinstance(node, ast.Assign) and "torch.cuda.get_device_properties(0)" in ast.unparse(node)
    ]  # fmt: skip
    assert bool(asks) == family.asks_for_gpu_at_import


def test_memory_is_watched_where_the_autotuner_empties_the_cache(release: Release) -> None:
    """The AutoTuner empties torch's cache while it handles a lack of memory."""
    _, wheel = release
    assert "torch.cuda.empty_cache()" in ast.unparse(wheel.definition(AUTOTUNER, "AutoTuner.choose_one"))
