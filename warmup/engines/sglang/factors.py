"""Settings and variables of SGLang that change no kernel. Everything else belongs to the identity of a start.

SGLang has no compile key of its own, so the rule is the other way round than vLLM's: a setting that is not listed here
must be equal. Read in SGLang 0.5.19 to 0.5.23.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from ray_warmup.configs.engine_arguments import is_secret

MAY_DIFFER: dict[str, str] = {
    "model_path": "a path; what the model says is a part of its own",
    "tokenizer_path": "a path",
    "served_model_name": "a label",
    "revision": "a label; what the model says is a part of its own",
    "download_dir": "a path",
    "load_format": "where weights come from",
    "model_loader_extra_config": "how weights are read",
    "weight_loader_disable_mmap": "how weights are read",
    "weight_loader_prefetch_checkpoints": "how weights are read",
    "weight_loader_prefetch_num_threads": "how weights are read",
    "weight_loader_drop_cache_after_load": "how weights are read",
    "startup_weight_load_mode": "how weights are read",
    "model_checksum": "checked before weights are loaded",
    "delete_ckpt_after_loading": "what becomes of the checkpoint",
    "engine_info_bootstrap_port": "a port",
    "skip_tokenizer_init": "the tokenizer",
    "tokenizer_mode": "the tokenizer",
    "tokenizer_backend": "the tokenizer",
    "tokenizer_worker_num": "the tokenizer",
    "detokenizer_worker_num": "the tokenizer",
    "enable_dynamic_batch_tokenizer": "the tokenizer",
    "dynamic_batch_tokenizer_batch_size": "the tokenizer",
    "dynamic_batch_tokenizer_batch_timeout": "the tokenizer",
    "enable_tokenizer_batch_encode": "the tokenizer",
    "disable_tokenizer_batch_decode": "the tokenizer",
    "chat_template": "the HTTP server",
    "trust_request_chat_template": "the HTTP server",
    "hf_chat_template_name": "the HTTP server",
    "completion_template": "the HTTP server",
    "default_chat_template_kwargs": "the HTTP server",
    "reasoning_parser": "the HTTP server",
    "tool_call_parser": "the HTTP server",
    "tool_server": "the HTTP server",
    "strip_thinking_cache": "the HTTP server",
    "sampling_defaults": "the HTTP server",
    "preferred_sampling_params": "the HTTP server",
    "allow_auto_truncate": "the HTTP server",
    "stream_interval": "the HTTP server",
    "batch_notify_size": "the HTTP server",
    "incremental_streaming_output": "the HTTP server",
    "stream_response_default_include_usage": "the HTTP server",
    "enable_response_store": "the HTTP server",
    "enable_cache_report": "the HTTP server",
    "return_input_ids": "the HTTP server",
    "return_output_ids": "the HTTP server",
    "host": "an address",
    "port": "a port",
    "grpc_port": "a port",
    "grpc_mode": "the gRPC server",
    "smg_grpc_mode": "the gRPC server",
    "grpc_response_timeout_secs": "the gRPC server",
    "grpc_worker_threads": "the gRPC server",
    "sidecar": "a process beside the server",
    "sidecar_args": "a process beside the server",
    "fastapi_root_path": "the HTTP server",
    "enable_http_worker_reuseport": "the HTTP server",
    "enable_http2": "the HTTP server",
    "http2_max_concurrent_streams": "the HTTP server",
    "http2_initial_connection_window_size": "the HTTP server",
    "ssl_keyfile": "a path",
    "ssl_certfile": "a path",
    "ssl_ca_certs": "a path",
    "ssl_keyfile_password": "a secret",
    "enable_ssl_refresh": "the HTTP server",
    "api_key": "a secret",
    "admin_api_key": "a secret",
    "weight_version": "a label",
    "file_storage_path": "a path",
    "skip_server_warmup": "requests of the HTTP server's own",
    "warmups": "requests of the HTTP server's own",
    "random_seed": "a seed: drawn at each start where none is given",
    "watchdog_timeout": "a timeout",
    "soft_watchdog_timeout": "a timeout",
    "dist_timeout": "a timeout",
    "sleep_on_idle": "how an idle process waits",
    "gc_threshold": "Python's garbage collection",
    "numa_node": "where a process is bound",
    "base_gpu_id": "which GPU",
    "gpu_id_step": "which GPU",
    "node_rank": "which node",
    "nccl_port": "a port",
    "dist_init_addr": "an address",
    "gated_launch_port": "a port",
    "custom_sigquit_handler": "what a signal does",
    "log_level": "a log",
    "log_level_http": "a log",
    "log_requests": "a log",
    "log_requests_level": "a log",
    "log_requests_format": "a log",
    "log_requests_target": "a log",
    "uvicorn_access_log_exclude_prefixes": "a log",
    "crash_dump_folder": "a path",
    "show_time_cost": "a log",
    "enable_metrics": "metrics",
    "enable_mfu_metrics": "metrics",
    "enable_metrics_for_all_schedulers": "metrics",
    "smg_http_sidecar_port": "a port",
    "load_snapshot_publish_interval": "metrics",
    "tokenizer_metrics_custom_labels_header": "metrics",
    "tokenizer_metrics_allowed_custom_labels": "metrics",
    "extra_metric_labels": "metrics",
    "bucket_time_to_first_token": "metrics",
    "bucket_inter_token_latency": "metrics",
    "bucket_e2e_request_latency": "metrics",
    "prompt_tokens_buckets": "metrics",
    "generation_tokens_buckets": "metrics",
    "gc_warning_threshold_secs": "a log",
    "decode_log_interval": "a log",
    "enable_request_time_stats_logging": "a log",
    "kv_events_config": "where events go",
    "load_publish_endpoint": "an address",
    "enable_trace": "traces",
    "trace_modules": "traces",
    "otlp_traces_endpoint": "an address",
    "otlp_service_name": "a label",
    "export_metrics_to_file": "metrics",
    "export_metrics_to_file_dir": "a path",
    "stat_loggers": "metrics",
    "schedule_policy": "the order of requests",
    "schedule_conservativeness": "the order of requests",
    "max_queued_requests": "the order of requests",
    "enable_priority_scheduling": "the order of requests",
    "default_priority_value": "the order of requests",
    "ple_offload_dir": "a path",
    "disaggregation_bootstrap_port": "a port",
    "encoder_bootstrap_port": "a port",
}
"""Argument, as SGLang resolves it -> what it holds, which is the reason why it may differ."""

VARIABLES_MAY_DIFFER: dict[str, str] = {
    "SGLANG_CACHE_DIR": "a path",
    "SGLANG_JIT_CACHE_DIR": "a path",
    "SGLANG_DG_CACHE_DIR": "a path",
    "SGLANG_CUTE_AOT_CACHE_DIR": "a path",
    "SGLANG_PLUGINS": "which plugins are loaded; it may hide this project's own",
    "SGLANG_RUN_ID": "drawn by SGLang at each start",
    "SGLANG_GRPC_ENDPOINT": "an address",
    "SGLANG_DP_RANK": "the replica's number",
    "SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "how processes of other nodes wait",
    "SGLANG_WARMUP_TIMEOUT": "a timeout",
    "SGLANG_CRASH_ON_JIT_COMPILE": "what a compilation of its own means",
    "SGLANG_CRASH_ON_TRITON_LOAD_AFTER_READY": "what a compilation after ready means",
    "SGLANG_JIT_CACHE_DEBUG": "a log",
    "SGLANG_HOST_IP": "an address",
    "SGLANG_LOGGING_CONFIG_PATH": "a path",
    "SGLANG_USE_MODELSCOPE": "where models are found",
}
"""Variable -> what it holds, which is the reason why it may differ."""
PREFIX = "SGLANG_"


def binding_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of SGLang that must be equal, without unset and empty ones."""
    kept = {}
    for name, value in sorted(environ.items()):
        is_of_sglang = name.startswith(PREFIX) and not is_secret(name)
        if is_of_sglang and value and name not in VARIABLES_MAY_DIFFER:
            kept[name] = value
    return kept


def binding_settings(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the settings that must be equal. What is secret is none of them."""
    kept = {}
    for name, value in values.items():
        if name not in MAY_DIFFER and not is_secret(name):
            kept[name] = value
    return kept
