"""Resolve what a config asks by the engine's own code, without starting it: the child process of `node/resolution.py`.

python -m ray_warmup.warmup.engines.vllm.resolve REQUEST.json RESULT.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from pydantic import JsonValue

from ray_warmup.configs import env
from ray_warmup.warmup.engines.front_end import model_errors
from ray_warmup.warmup.engines.front_end.argument_comparison import compare_arguments
from ray_warmup.warmup.engines.front_end.child_request import ChildRequest
from ray_warmup.warmup.engines.front_end.resolve_process import answer
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.vllm import arguments, word_embeddings
from ray_warmup.warmup.engines.vllm.identity import identify, settings_of
from ray_warmup.warmup.engines.vllm.word_embeddings import LmHead

QUANTIZATION_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside config.json from which vLLM reads how weights are quantized."""


def resolve(request: ChildRequest) -> Resolved:
    """Resolve a request. Raises EngineError."""
    import vllm

    word_embeddings.decide_as_the_checkpoint(cast(LmHead, request.options["lm_head"]))
    given = dict(request.arguments)
    config = configure(given, request)
    parts = identify(config).parts
    same = partial(_is_same, parts=parts, request=request)
    changing, others = compare_arguments(given, "model", same) if request.explain else ((), ())
    return Resolved(
        engine_version=vllm.__version__,
        identity=parts,
        settings=settings_of(config),
        digests=tuple(sorted(file_digests(config).items())),
        class_arguments=changing,
        other_arguments=others,
        not_covered=not_covered(config),
    )


def configure(given: Mapping[str, JsonValue], request: ChildRequest) -> Any:
    """Return vLLM's resolved configuration. Raises EngineError with the argument or the model."""
    try:
        parsed = arguments.engine_args(given, request.load_format)
        return arguments.resolve_configuration(parsed, request.options["usage"])
    except Exception as error:  # vLLM's, pydantic's and the hub's own; each is named
        is_offline = env.read("HF_HUB_OFFLINE") is not None
        raise model_errors.named(error, "vLLM", "model", str(given["model"]), is_offline=is_offline) from error


def _is_same(given: Mapping[str, JsonValue], *, parts: tuple[tuple[str, str], ...], request: ChildRequest) -> bool:
    """Return True if other arguments resolve to the same identity."""
    return identify(configure(given, request)).parts == parts


def file_digests(config: Any) -> dict[str, str]:
    """Digest the files and the configuration that decide what is compiled, read as vLLM reads them."""
    from vllm.transformers_utils.repo_utils import get_hf_file_bytes

    model = config.model_config
    found: dict[str, str] = {}
    for name in ("config.json", *QUANTIZATION_FILES):
        data = get_hf_file_bytes(name, model.model, model.revision)
        if data is not None:
            found[name] = hashlib.sha256(data).hexdigest()
    found["resolved configuration"] = hashlib.sha256(json.dumps(identify(config).parts).encode()).hexdigest()
    return found


def not_covered(config: Any) -> tuple[str, ...]:
    """Name what of the model itself no recording covers."""
    model = config.model_config
    found = []
    if getattr(model, "is_multimodal_model", False):
        found.append("multimodal models: only their text part would be recorded")
    if getattr(model, "runner_type", "generate") != "generate":
        found.append(f"models that do not generate text (runner {model.runner_type})")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(answer(resolve, *sys.argv[1:]))
