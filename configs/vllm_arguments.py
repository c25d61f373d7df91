"""The rules for vLLM's arguments in a config."""

from __future__ import annotations

from ray_warmup.configs.engine_arguments import ArgumentRules

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

VLLM_ARGUMENTS = ArgumentRules(
    short=SHORT,
    ours=OURS,
    servers=SERVERS,
    not_covered=NOT_COVERED,
    sizes=frozenset(name for name in NOT_COVERED if name.endswith("_parallel_size")),
)
