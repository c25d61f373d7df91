"""The only reader of `os.environ`, and the table of every variable that this project reads or sets.

A variable is *forwarded* when the driver's value is handed to the ranks. Locations never are: cache
roots, `~` and XDG variables are resolved in the rank's own process, because each node may have its own.
A variable is *set* when every rank gets a fixed value from us whatever the driver has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from ray_warmup.configs.errors import ConfigError, shown

Handling = Literal["local", "forwarded", "set"]


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: what it means and what happens to it on the way to the ranks."""

    name: str
    handling: Handling
    meaning: str
    value: str | None = None
    """The value for `set` variables."""


TABLE: tuple[Variable, ...] = (
    Variable("RAY_ADDRESS", "local", "cluster to connect to when `cluster.address` is not given"),
    Variable("RAY_WARMUP_CACHE_ROOT", "local", "cache root of this node when `cache.root` is not given"),
    Variable(
        "RAY_WARMUP_CACHE_DIR",
        "local",
        "replaces everything before the key's hash when `cache.override_dir` is not given",
    ),
    Variable("RAY_WARMUP_TRUSTED_UIDS", "local", "`cache.trusted_uids` for processes without a config, with commas"),
    Variable("RAY_WARMUP_TRUSTED_GIDS", "local", "`cache.trusted_gids` for processes without a config, with commas"),
    Variable("RAY_WARMUP_TRUST", "local", "`cache.trust` for processes without a config: any, signed"),
    Variable("RAY_WARMUP_PUBLIC_KEYS", "local", "`cache.public_keys` for processes without a config, with commas"),
    Variable("RAY_WARMUP_SIGNING_KEY", "local", "file or PEM text of the key that signs what this process packs"),
    Variable("XDG_STATE_HOME", "local", "parent of the memory of signed artifacts; unset: ~/.local/state"),
    Variable("XDG_CACHE_HOME", "local", "parent of the default cache root"),
    Variable("HOME", "local", "expands `~`, parent of the default cache root"),
    Variable("TMPDIR", "local", "parent of Ray's session directory when nodes are simulated"),
    Variable("FLASHINFER_WORKSPACE_BASE", "local", "where FlashInfer builds; unset: below the cache root"),
    Variable("FLASHINFER_CUDA_ARCH_LIST", "local", "what FlashInfer compiles for; unset: the GPUs that it sees"),
    Variable("FLASHINFER_TACTICS_BLOCKLIST", "local", "FlashInfer's list of tactics never to tune"),
    Variable("CUDA_CACHE_PATH", "local", "the driver's cache of compiled kernels"),
    Variable("CUDA_CACHE_MAXSIZE", "local", "its size limit in bytes"),
    Variable("TRITON_CACHE_DIR", "local", "Triton's cache of compiled kernels"),
    Variable("CUDA_VISIBLE_DEVICES", "local", "assigned by Ray, never by us"),
    Variable("VLLM_CACHE_ROOT", "local", "where vLLM keeps its own caches"),
    Variable("VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR", "local", "where vLLM keeps FlashInfer's tables"),
    Variable("TRITON_HOME", "local", "parent of Triton's default cache"),
    Variable("TORCHINDUCTOR_CACHE_DIR", "local", "Inductor's cache in an engine"),
    Variable("TORCH_COMPILE_ON_ONE_RANK", "local", "whether compiled files hold no CUDA device index"),
    Variable("DG_JIT_CACHE_DIR", "local", "DeepGEMM's cache in an engine; the first of several directories"),
    Variable("TRTLLM_DG_CACHE_DIR", "local", "FlashInfer's cache of TensorRT-LLM's DeepGEMM kernels"),
    Variable("VLLM_PLUGINS", "local", "which plugins vLLM loads; it may hide this project's"),
    Variable("SGLANG_CACHE_DIR", "local", "where SGLang and, by its doing, its libraries keep their caches"),
    Variable("SGLANG_JIT_CACHE_DIR", "local", "SGLang's own compiled modules"),
    Variable("SGLANG_DG_CACHE_DIR", "local", "DeepGEMM's cache in SGLang"),
    Variable("SGLANG_PLUGINS", "local", "which plugins SGLang loads; it may hide this project's"),
    Variable("HF_HUB_OFFLINE", "local", "whether the hub of models is not asked, for the words of an error"),
    Variable("RAY_WARMUP_NAMESPACE", "local", "Ray namespace of the registry when `cache.namespace` is not given"),
    Variable("RAY_WARMUP", "local", "what the plugin does in an engine's processes: ENGINE_MODES"),
    Variable("RAY_WARMUP_RECORD", "local", "directory into which an engine that is recorded writes what it did"),
    Variable("RAY_WARMUP_PROOF", "local", "directory into which an engine that must prove itself writes what it did"),
    Variable(
        "RAY_WARMUP_REMOTE", "local", "`cache.remote` for engines, which have no config: asked after the registry"
    ),
    Variable(
        "RAY_WARMUP_WAIT",
        "local",
        "seconds for which an engine without an artifact waits for a run that makes it, then it starts cold; unset: 0",
    ),
    Variable("RAY_WARMUP_TUNE", "local", "where the ranks of a recorded engine are tuned: `secret@host:port`"),
    Variable("RAY_WARMUP_LOG_LEVEL", "forwarded", "level of coordinator and ranks in Ray's logs: LOG_LEVELS"),
    Variable("TQDM_DISABLE", "set", "FlashInfer prints a bar for every tuned task otherwise", "1"),
    Variable("FLASHINFER_LOGGING_LEVEL", "set", "FlashInfer logs two lines for every tuned task otherwise", "WARNING"),
)

ENGINE_MODES = ("auto", "off", "require")
"""`auto`: place what fits, else start as if nothing was installed. `require`: fail the start instead."""

OF_ENGINES = (
    "RAY_WARMUP",
    "RAY_WARMUP_CACHE_ROOT",
    "RAY_WARMUP_TRUSTED_UIDS",
    "RAY_WARMUP_TRUSTED_GIDS",
    "RAY_WARMUP_TRUST",
    "RAY_WARMUP_PUBLIC_KEYS",
    "RAY_WARMUP_NAMESPACE",
    "RAY_WARMUP_REMOTE",
    "RAY_WARMUP_WAIT",
    "RAY_WARMUP_RECORD",
    "RAY_WARMUP_PROOF",
)
"""Variables that the plugin reads in every process of an engine."""

LOG_LEVELS = ("INFO", "DEBUG", "WARNING", "ERROR")
"""The first one where nothing is said."""

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray swaps 127.0.0.1 for the host's outer address
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that keep Ray on this machine, set before Ray is imported."""

_NAMES = {variable.name for variable in TABLE}


def read(name: str, *, configured: bool = False) -> str | None:
    """The variable's value in this process, None when unset or empty.

    `configured=True` admits a name that the user's config gave (`cache.root_env`); any other name must be in TABLE.
    """
    if not configured and name not in _NAMES:
        raise KeyError(f"{name} is not in configs.env.TABLE")
    # Empty counts as unset, as in shells and container files that cannot unset.
    return os.environ.get(name) or None


def rank_environment() -> dict[str, str]:
    """Return the environment variables that the driver passes to every rank.

    Includes the `set` variables and those `forwarded` ones that are set here. Raises ConfigError for an unknown log
    level.
    """
    values = {v.name: v.value for v in TABLE if v.handling == "set" and v.value is not None}
    for variable in TABLE:
        if variable.handling == "forwarded" and (value := read(variable.name)) is not None:
            values[variable.name] = value
    if (level := values.get("RAY_WARMUP_LOG_LEVEL", LOG_LEVELS[0])) not in LOG_LEVELS:
        raise ConfigError(f"RAY_WARMUP_LOG_LEVEL: {shown(level)}: must be one of {', '.join(LOG_LEVELS)}")
    return values


def export(values: dict[str, str]) -> None:
    """Set variables in this process (a rank's own, before it imports FlashInfer)."""
    os.environ.update(values)


def snapshot() -> dict[str, str]:
    """A copy of the whole environment, for child processes and for tests that compare before and after."""
    return dict(os.environ)
