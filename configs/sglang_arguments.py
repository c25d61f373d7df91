"""The rules for SGLang's arguments in a config."""

from __future__ import annotations

from ray_warmup.configs.engine_arguments import ArgumentRules

SHORT: dict[str, str] = {
    "model": "model_path",
    "tp": "tp_size",
    "tensor_parallel_size": "tp_size",
    "pp": "pp_size",
    "pipeline_parallel_size": "pp_size",
    "dp": "dp_size",
    "data_parallel_size": "dp_size",
    "ep": "ep_size",
    "expert_parallel_size": "ep_size",
    "attention_data_parallel_size": "attn_dp_size",
    "attention_context_parallel_size": "attn_cp_size",
    "decode_context_parallel_size": "dcp_size",
    "moe_data_parallel_size": "moe_dp_size",
    "nccl_init_addr": "dist_init_addr",
    "speculative_draft_model": "speculative_draft_model_path",
    "enable_hicache": "enable_hierarchical_cache",
}
"""Other names that SGLang's command line has for an argument."""
OURS: dict[str, str] = {
    "load_format": "engine.weights says it",
    "nnodes": "cluster says it",
    "node_rank": "the run chooses it",
    "dist_init_addr": "the run chooses it",
    "nccl_port": "the run chooses it",
    "base_gpu_id": "the run chooses it",
    "gpu_id_step": "the run chooses it",
    "use_ray": "the run chooses it",
    "host": "no server is started",
    "port": "no server is started",
    "skip_server_warmup": "no server is started",
    "warmups": "no server is started",
    "config": "engine.args has its content",
    "skip_tokenizer_init": "trial requests are token ids",
    "log_level": "the engine's log is kept with a failure",
}
"""Arguments that a run sets itself, each with the reason."""
SERVERS: tuple[str, ...] = (
    "api_key",
    "admin_api_key",
    "chat_template",
    "completion_template",
    "tool_call_parser",
    "reasoning_parser",
    "tool_server",
    "served_model_name",
    "fastapi_root_path",
    "file_storage_path",
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_ca_certs",
    "ssl_keyfile_password",
    "enable_metrics",
    "grpc_mode",
    "smg_grpc_mode",
    "tokenizer_worker_num",
    "detokenizer_worker_num",
)
"""Arguments of SGLang's HTTP server, which no start of ours has."""
NOT_COVERED: dict[str, str] = {
    "pp_size": "pipeline parallelism is",
    "dp_size": "data parallel replicas are",
    "attn_dp_size": "attention data parallelism is",
    "enable_dp_attention": "attention data parallelism is",
    "attn_cp_size": "context parallelism is",
    "dcp_size": "context parallelism is",
    "moe_dp_size": "data parallel experts are",
    "dwdp_size": "data parallel weights are",
    "elastic_ep_backend": "elastic expert parallelism is",
    "enable_eplb": "expert load balancing is",
    "enable_lora": "LoRA is",
    "lora_paths": "LoRA is",
    "speculative_algorithm": "speculative decoding is",
    "speculative_draft_model_path": "speculative decoding is",
    "enable_multimodal": "multimodal models are",
    "is_embedding": "embedding models are",
    "disaggregation_mode": "disaggregated prefill is",
    "enable_pdmux": "disaggregated prefill is",
    "dllm_algorithm": "diffusion models are",
    "weight_cache_mode": "a daemon that holds weights is",
    "enable_torch_compile": "torch.compile of the whole model is",
}
"""Arguments whose kernels a recording would miss, each with what it asks for."""

SGLANG_ARGUMENTS = ArgumentRules(
    short=SHORT,
    ours=OURS,
    servers=SERVERS,
    not_covered=NOT_COVERED,
    sizes=frozenset(name for name in NOT_COVERED if name.endswith("_size")),
)
