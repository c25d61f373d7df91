"""Resolve what a config asks by SGLang's own code, without starting it: the child process of `node/resolution.py`.

python -m ray_warmup.warmup.engines.sglang.resolve REQUEST.json RESULT.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs import env
from ray_warmup.warmup.engines.front_end import model_errors
from ray_warmup.warmup.engines.front_end.argument_comparison import compare_arguments
from ray_warmup.warmup.engines.front_end.child_request import ChildRequest
from ray_warmup.warmup.engines.front_end.resolve_process import answer
from ray_warmup.warmup.engines.identity.identity import Identity
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.sglang import arguments
from ray_warmup.warmup.engines.sglang.identity import engine_version, identify, settings_of

FILES = ("config.json", "hf_quant_config.json", "quantize_config.json")
"""Files from which SGLang reads what a model is and how its weights are quantized."""


def resolve(request: ChildRequest) -> Resolved:
    """Resolve a request. Raises EngineError."""
    given = dict(request.arguments)
    values, model = configure(given, request)
    identity = identify(values, model.hf_config)
    same = partial(_is_same, identity=identity, request=request)
    changing, others = compare_arguments(given, "model_path", same) if request.explain else ((), ())
    return Resolved(
        engine_version=engine_version(),
        identity=identity.parts,
        settings=settings_of(values, model.hf_config),
        digests=file_digests(values, identity),
        class_arguments=changing,
        other_arguments=others,
        not_covered=not_covered(values, model),
    )


def configure(given: Mapping[str, JsonValue], request: ChildRequest) -> tuple[dict[str, JsonValue], Any]:
    """Return SGLang's resolved arguments by name, and its configuration of the model.

    Raises EngineError with the argument or the model.
    """
    from sglang.srt.configs.model_config import ModelConfig

    try:
        resolved = arguments.server_args(given, request.load_format)
        resolved.resolve_once()
        return dict(resolved.resolved_dict()), ModelConfig.from_server_args(resolved)
    except Exception as error:  # SGLang's, transformers' and the hub's own; each is named
        is_offline = env.read("HF_HUB_OFFLINE") is not None
        model = str(given["model_path"])
        raise model_errors.named(error, "SGLang", "model_path", model, is_offline=is_offline) from error


def _is_same(given: Mapping[str, JsonValue], *, identity: Identity, request: ChildRequest) -> bool:
    """Return True if other arguments resolve to the same identity."""
    values, model = configure(given, request)
    return identify(values, model.hf_config).parts == identity.parts


def file_digests(values: Mapping[str, JsonValue], identity: Identity) -> tuple[tuple[str, str], ...]:
    """Digest the files that say what the model is, and what everything resolves to."""
    found: list[tuple[str, str]] = []
    given = values.get("revision")
    revision = None if given is None else str(given)
    for name in FILES:
        path = _file_of_model(str(values["model_path"]), revision, name)
        if path is not None:
            found.append((name, hashlib.sha256(path.read_bytes()).hexdigest()))
    found.append(("resolved configuration", hashlib.sha256(json.dumps(identity.parts).encode()).hexdigest()))
    return tuple(sorted(found))


def _file_of_model(model: str, revision: str | None, name: str) -> Path | None:
    """Return a file of the model where this node has it."""
    if Path(model).is_dir():
        path = Path(model, name)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def not_covered(values: Mapping[str, JsonValue], model: Any) -> tuple[str, ...]:
    """Name what of the model itself no recording covers, also where SGLang turns it on by itself."""
    found = []
    if getattr(model, "is_multimodal", False):
        found.append("multimodal models: only their text part would be recorded")
    if not getattr(model, "is_generation", True):
        found.append("models that do not generate text")
    if values.get("speculative_algorithm"):
        found.append(f"speculative decoding ({values['speculative_algorithm']})")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(answer(resolve, *sys.argv[1:]))
