"""The families of FlashInfer whose source was read, and the choice among them by a version.

`tests/engines/test_flashinfer_contract.py` reads every release that is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata

from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.families.seam_set import SeamSet
from ray_warmup.warmup.families.version_order import neighbours, plain

DISTRIBUTION = "flashinfer-python"


def _without(methods: Mapping[str, tuple[str, ...]], absent: str) -> dict[str, tuple[str, ...]]:
    """Return methods of a newer family without one that an older family lacks."""
    kept = dict(methods)
    del kept[absent]
    return kept


V0_7_2 = SeamSet(
    versions=("0.7.2", "0.7.2.post1"),
    methods={
        "choose_one": ("self", "custom_op", "runners", "tuning_config", "inputs", "kwargs"),
        "search_cache": (
            "self",
            "custom_op",
            "runners",
            "input_shapes",
            "tuning_config",
            "inputs",
            "require_profiling_policy",
        ),
        "_profile_single_kernel": (
            "self",
            "runner",
            "inputs",
            "tactic",
            "tuning_config",
            "input_tensor_batches",
            "kwargs",
        ),
        "_get_input_sizes": ("self", "inputs"),
        "_get_cache_key": ("custom_op", "runner", "input_shapes", "tuning_config", "extras"),
        "_profiling_policy": ("tuning_config",),
    },
    functions={
        "_collect_metadata": (),
        "_tactic_to_json": ("tactic",),
        "_sync_oom_across_tune_group": ("local_oom",),
    },
    attributes=("_override_tuning_buckets", "_effective_skip_ops", "_managed_cache"),
    key_fields=("custom_op", "runner_class_name", "runner_hash", "nearest_profile", "extras"),
    metadata_fields=(
        "flashinfer_version",
        "cuda_version",
        "cublas_version",
        "cudnn_version",
        "cudnn_frontend_version",
        "cutlass_dsl_version",
        "gpu",
    ),
    entry_width=3,
    ranks_in_moe_keys=False,
    modules_through="providers",
    asks_for_gpu_at_import=False,
)

V0_7_1 = replace(V0_7_2, versions=("0.7.1",), ranks_in_moe_keys=True)

V0_7_0 = replace(
    V0_7_1,
    versions=("0.7.0", "0.7.0.post1"),
    methods={**V0_7_1.methods, "search_cache": V0_7_1.methods["search_cache"][:-1]},
    functions=_without(V0_7_1.functions, "_sync_oom_across_tune_group"),
    entry_width=2,
    asks_for_gpu_at_import=True,
)

V0_6_18 = replace(
    V0_7_0,
    versions=("0.6.18", "0.6.18.post1"),
    methods=_without(V0_7_0.methods, "_profiling_policy"),
    attributes=("_override_tuning_buckets", "_effective_skip_ops"),
    metadata_fields=tuple(name for name in V0_7_0.metadata_fields if name != "cutlass_dsl_version"),
    modules_through="one directory",
)

FAMILIES: tuple[SeamSet, ...] = (V0_6_18, V0_7_0, V0_7_1, V0_7_2)
"""Every family, oldest first."""


def families_of(version: str) -> tuple[SeamSet, ...]:
    """Return the families that a version may belong to, the likeliest first.

    One for a release that was read. A release between two that were read may be like either.

    Raises TuningError for a version that is older or newer than all of them.
    """
    for family in FAMILIES:
        if plain(version) in family.versions:
            return (family,)
    before, after = neighbours(version, known_versions())
    if before is None:
        raise _unknown(version, "older")
    if after is None:
        raise _unknown(version, "newer")
    return tuple(family for family in FAMILIES if before in family.versions or after in family.versions)


def _unknown(version: str, order: str) -> TuningError:
    return TuningError(
        f"{DISTRIBUTION} {version} is {order} than every release that this version of ray-warmup knows "
        f"({', '.join(known_versions())}); install one of them, or the ray-warmup made for it",
        flashinfer=version,
    )


def known_versions() -> tuple[str, ...]:
    """Every release whose source was read, oldest first."""
    return tuple(version for family in FAMILIES for version in family.versions)


def installed_families() -> tuple[SeamSet, ...]:
    """Return the families of the installed FlashInfer without importing it: none where none is installed or known."""
    try:
        return families_of(metadata.version(DISTRIBUTION))
    except (metadata.PackageNotFoundError, TuningError):
        return ()


def metadata_fields_of(version: str) -> tuple[str, ...]:
    """Return the fields that a table of this FlashInfer names: the newest family's for a version that is not known."""
    for family in FAMILIES:
        if plain(version) in family.versions:
            return family.metadata_fields
    return FAMILIES[-1].metadata_fields
