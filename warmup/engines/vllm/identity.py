"""The parts of a vLLM start's identity: settings, digests of the configuration's sections, and the environment.

The model's path is not a part: vLLM hashes it, and a snapshot directory differs from node to node. What the model
says (its configuration) is. Equal on every rank of a replica. Imports vLLM inside functions.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from ray_warmup.configs.engine_arguments import is_secret
from ray_warmup.warmup.engines.identity.identity import Identity, environment_parts, plain_settings
from ray_warmup.warmup.engines.vllm import factors

SCHEMA = "2"
"""Raised when the meaning of a part changes."""
READABLE: tuple[tuple[str, str], ...] = (
    ("scheduler_config", "max_num_batched_tokens"),
    ("scheduler_config", "max_num_seqs"),
    ("model_config", "dtype"),
    ("model_config", "max_model_len"),
    ("model_config", "quantization"),
    ("model_config", "word_embeddings_untied_by_checkpoint"),
    ("cache_config", "cache_dtype"),
    ("cache_config", "block_size"),
    ("parallel_config", "tensor_parallel_size"),
    ("parallel_config", "pipeline_parallel_size"),
    ("parallel_config", "data_parallel_size"),
    ("parallel_config", "enable_expert_parallel"),
)
"""Settings that are named in a miss by their own values; the digests beside them cover everything else."""


def identify(vllm_config: Any) -> Identity:
    """Describe the start that this process takes part in."""
    import vllm
    from vllm import envs

    parts = [("schema", SCHEMA), ("engine", "vllm"), ("engine_version", vllm.__version__)]
    parts += environment_parts()
    for section, field in READABLE:
        value = getattr(getattr(vllm_config, section, None), field, None)
        parts.append((f"{section}.{field}", str(value)))
    parts.append(("sections", json.dumps(_section_digests(vllm_config), sort_keys=True)))
    parts.append(("environment", json.dumps(factors.binding(envs.compile_factors()), sort_keys=True)))
    return Identity(tuple(parts))


def settings_of(vllm_config: Any) -> dict[str, str]:
    """Return the plain settings of a configuration as `section.field` to text, to name what a digest does not.

    What is secret, a path of this node or no plain value is left out.
    """
    settings: dict[str, str] = {}
    for section_name, section in sorted(vars(vllm_config).items()):
        if not section_name.endswith("_config") or section is None or not hasattr(section, "__dict__"):
            continue
        for name, value in sorted(vars(section).items()):
            if name == "hf_config":
                settings |= _below(f"{section_name}.hf_config", _members_of(value))
        settings |= _below(section_name, vars(section))
    return settings


# A border: members of an object of vLLM.
def _below(prefix: str, members: Mapping[str, Any]) -> dict[str, str]:
    """Return plain settings under a prefix: `model_config.dtype`."""
    return {f"{prefix}.{key}": text for key, text in plain_settings(members).items()}


def factors_of_environment() -> dict[str, str]:
    """Return every environment factor of vLLM's compile key as text, without what is secret."""
    from vllm import envs

    return {name: str(value) for name, value in sorted(envs.compile_factors().items()) if not is_secret(name)}


# A border: the members of a configuration of transformers.
def _members_of(hf_config: Any) -> Mapping[str, Any]:
    to_dict = getattr(hf_config, "to_dict", None)
    return to_dict() if to_dict is not None else vars(hf_config)  # type: ignore[no-any-return]


def _section_digests(vllm_config: Any) -> dict[str, str]:
    """Section of vLLM's configuration -> digest of what of it decides kernels, by vLLM's own rules."""
    digests = {"all": copy_without_paths(vllm_config).compute_hash()}
    for name in sorted(vars(vllm_config)):
        section = getattr(vllm_config, name)
        if name.endswith("_config") and hasattr(section, "compute_hash"):
            without = _model_without_paths(section) if name == "model_config" else section
            digests[name] = without.compute_hash()
    return digests


def copy_without_paths(vllm_config: Any) -> Any:
    """Return a shallow copy whose model has no path, leaving the given configuration unchanged."""
    copied = copy.copy(vllm_config)
    if vllm_config.model_config is not None:
        copied.model_config = _model_without_paths(vllm_config.model_config)
    return copied


def _model_without_paths(model_config: Any) -> Any:
    copied = copy.copy(model_config)
    for field in ("model", "model_weights"):
        if hasattr(copied, field):
            object.__setattr__(copied, field, "")
    for field in ("hf_config", "hf_text_config"):
        inner = copy.copy(getattr(model_config, field, None))
        if inner is not None:
            inner._name_or_path = ""
            object.__setattr__(copied, field, inner)
    return copied
