"""Arguments of the fake engine, resolved as its server or its class would."""

from __future__ import annotations

from typing import Any

from vllm import make_config


class EngineArgs:
    """Sizes default by who starts the engine."""

    def __init__(self, load_format: str, skip_tokenizer_init: bool, **arguments: Any) -> None:
        self.arguments = arguments
        self.max_num_batched_tokens = arguments.get("max_num_batched_tokens")
        self.max_num_seqs = arguments.get("max_num_seqs")

    def create_engine_config(self, usage_context: str) -> Any:
        """Fill in the defaults and return the configuration."""
        self.max_num_batched_tokens = self.max_num_batched_tokens or (96 if "SERVER" in usage_context else 128)
        self.max_num_seqs = self.max_num_seqs or 4
        sizes = {"max_num_batched_tokens": self.max_num_batched_tokens, "max_num_seqs": self.max_num_seqs}
        return make_config(**self.arguments | sizes)
