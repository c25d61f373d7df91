"""vLLM's arguments in a config: one spelling, which ones belong to the run, which are not covered, which are secret.

What this module does not know is left to vLLM's own parser, which names an argument that it refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

SHORT: dict[str, str] = {
    "q": "quantization",
    "pp": "pipeline_parallel_size",
    "tp": "tensor_parallel_size",
    "dp": "data_parallel_size",
    "ep": "enable_expert_parallel",
    "n": "nnodes",
    "r": "node_rank",
    "dcp": "decode_context_parallel_size",
    "pcp": "prefill_context_parallel_size",
    "dpn": "data_parallel_rank",
    "dpr": "data_parallel_start_rank",
    "dpl": "data_parallel_size_local",
    "dpa": "data_parallel_address",
    "dpp": "data_parallel_rpc_port",
    "dpb": "data_parallel_backend",
    "dph": "data_parallel_hybrid_lb",
    "dpe": "data_parallel_external_lb",
    "dpm": "data_parallel_multi_port_external_lb",
    "sc": "speculative_config",
    "dc": "diffusion_config",
    "cc": "compilation_config",
    "ac": "attention_config",
    "O": "optimization_level",
    "model_tag": "model",
}
"""vLLM's short options, and its name for the model's place in the command line."""
OURS: dict[str, str] = {
    "load_format": "engine.weights says it",
    "distributed_executor_backend": "the run chooses it",
    "nnodes": "cluster says it",
    "node_rank": "the run chooses it",
    "master_addr": "the run chooses it",
    "master_port": "the run chooses it",
    "device_ids": "the run chooses it",
    "host": "no server is started",
    "port": "no server is started",
    "uds": "no server is started",
    "api_server_count": "no server is started",
    "headless": "no server is started",
    "config": "engine.args has its content",
    "skip_tokenizer_init": "trial requests are token ids",
}
"""Arguments that a run sets itself, each with the reason."""
SERVERS: tuple[str, ...] = (
    "api_key",
    "chat_template",
    "enable_auto_tool_choice",
    "tool_call_parser",
    "root_path",
    "middleware",
    "ssl_keyfile",
    "ssl_certfile",
    "allowed_origins",
    "response_role",
)
"""Arguments of vLLM's HTTP server, which no start of ours has."""
NOT_COVERED: dict[str, str] = {
    "pipeline_parallel_size": "pipeline parallelism is",
    "decode_context_parallel_size": "context parallelism is",
    "prefill_context_parallel_size": "context parallelism is",
    "data_parallel_size": "data parallel replicas are",
    "data_parallel_size_local": "data parallel replicas are",
    "data_parallel_rank": "data parallel replicas are",
    "data_parallel_start_rank": "data parallel replicas are",
    "data_parallel_address": "data parallel replicas are",
    "data_parallel_rpc_port": "data parallel replicas are",
    "data_parallel_backend": "data parallel replicas are",
    "data_parallel_hybrid_lb": "data parallel replicas are",
    "data_parallel_external_lb": "data parallel replicas are",
    "data_parallel_multi_port_external_lb": "data parallel replicas are",
    "enable_expert_parallel": "expert parallelism is",
    "enable_eplb": "expert parallelism is",
    "enable_elastic_ep": "expert parallelism is",
    "enable_lora": "LoRA is",
    "lora_modules": "LoRA is",
    "speculative_config": "speculative decoding is",
    "spec_method": "speculative decoding is",
    "spec_model": "speculative decoding is",
    "spec_tokens": "speculative decoding is",
    "limit_mm_per_prompt": "multimodal models are",
    "mm_processor_kwargs": "multimodal models are",
    "kv_transfer_config": "KV transfer is",
    "ec_transfer_config": "KV transfer is",
    "diffusion_config": "diffusion models are",
}
"""Arguments whose kernels a recording would miss, each with what it asks for.

Whether a model is multimodal is in its own configuration, so the node that resolves the model says it.
"""
SECRET = re.compile(r"(.*_)?(token|api_key|access_key|secret_key|password|secret|credentials?)")
"""Names whose values are in no report, key, log or index; `tokenizer` and `max_num_batched_tokens` are none."""
HIDDEN = "(secret)"
SHORTEST_SECRET = 4
"""Characters below which a text is no secret: replacing it would garble what is shown."""


def one_spelling(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return arguments under vLLM's own names, whatever dashes or short options they were given with.

    Raises ValueError for an argument that is given twice. What follows a dot (`compilation-config.cudagraph_mode`)
    is left as it is.
    """
    spelled = {}
    for name, value in arguments.items():
        head, dot, rest = str(name).lstrip("-").partition(".")
        plain = head.replace("-", "_")
        plain = SHORT.get(plain, plain) + dot + rest
        if plain in spelled:
            raise ValueError(f"{plain} is given twice")
        spelled[plain] = value
    return spelled


def base_name(argument: str) -> str:
    """Return the argument that a dotted or negated name belongs to."""
    return argument.partition(".")[0]


def refusals(arguments: Mapping[str, JsonValue]) -> list[str]:
    """List the arguments that a config may not have, each with the reason and the way out."""
    found = []
    for name, value in arguments.items():
        base = base_name(name)
        if base in OURS:
            found.append(f"args.{name}: {OURS[base]}; leave it out")
        elif base in NOT_COVERED and not _asks_for_nothing(name, value):
            found.append(
                f"args.{name}: {NOT_COVERED[base]} not covered yet; leave it out, or start the engine without us"
            )
        elif base in SERVERS:
            found.append(f"args.{name}: belongs to the HTTP server, which is not started; leave it out")
    return found


def is_secret(name: str) -> bool:
    """Return True for the name of a value that must not be shown."""
    return SECRET.fullmatch(name.lower().replace("-", "_").rpartition(".")[2]) is not None


def without_secrets(value: JsonValue) -> Any:
    """Return a value without the members that are secret, at any depth, also inside a JSON text."""
    inside = _inside(value)
    if inside is not None:
        return json.dumps(without_secrets(inside))
    if isinstance(value, dict):
        return {name: without_secrets(inner) for name, inner in value.items() if not is_secret(name)}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return value


def secrets_of(value: JsonValue, *, is_hidden: bool = False) -> frozenset[str]:
    """Return the texts that are secret, at any depth, also inside a JSON text."""
    value = _inside(value) or value
    if isinstance(value, dict):
        inner = [secrets_of(member, is_hidden=is_hidden or is_secret(name)) for name, member in value.items()]
        return frozenset().union(*inner)
    if isinstance(value, list):
        return frozenset().union(*(secrets_of(member, is_hidden=is_hidden) for member in value))
    if not is_hidden or not isinstance(value, str) or len(value) < SHORTEST_SECRET:
        return frozenset()
    return frozenset({value})


def hide(text: str, secrets: frozenset[str]) -> str:
    """Replace every secret in a text."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _asks_for_nothing(name: str, value: JsonValue) -> bool:
    """Return True for a value that leaves a feature off."""
    return value is None or value is False or (name.endswith("_parallel_size") and value == 1)


def _inside(value: JsonValue) -> dict[str, JsonValue] | None:
    """Return the mapping that a JSON text holds, as vLLM's command line takes it."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(value)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return found
