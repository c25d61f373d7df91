"""Arguments of the fake engine: read from a command line and resolved as its server or its class would."""

from __future__ import annotations

import json
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vllm import make_config


@dataclass
class EngineArgs:
    """Sizes default by who starts the engine."""

    model: str = ""
    load_format: str = "auto"
    skip_tokenizer_init: bool = False
    revision: str | None = None
    hf_token: str | None = None
    seed: int = 0
    enforce_eager: bool = False
    fault: str | None = None
    slow_s: int = 0
    distributed_executor_backend: str | None = None
    max_model_len: int = 64
    tensor_parallel_size: int = 1
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    cudagraph_capture_sizes: list[int] | None = None
    compilation_config: dict[str, Any] | None = None
    hf_overrides: dict[str, Any] | None = None

    @staticmethod
    def add_cli_args(parser: ArgumentParser) -> ArgumentParser:
        """One option a field."""
        for field in fields(EngineArgs):
            option = "--" + field.name.replace("_", "-")
            if isinstance(field.default, bool):
                parser.add_argument(option, action=BooleanOptionalAction, default=field.default)
            elif field.name.endswith("sizes"):
                parser.add_argument(option, nargs="+", type=int, default=None)
            elif field.name in ("compilation_config", "hf_overrides"):
                parser.add_argument(option, type=json.loads, default=None)
            else:
                numeric = int if isinstance(field.default, int) or field.name.startswith("max_num") else str
                parser.add_argument(option, type=numeric, default=field.default)
        return parser

    @classmethod
    def from_cli_args(cls, parsed: Namespace) -> EngineArgs:
        """What was parsed."""
        return cls(**{field.name: getattr(parsed, field.name) for field in fields(cls)})

    def create_model_config(self) -> Any:
        """Read the model's configuration, where its directory is here."""
        if self.model.lstrip("/").startswith("missing"):
            raise ValueError(f"Invalid repository ID or local directory specified: '{self.model}'.")
        return make_config(**self.arguments()).model_config

    def create_engine_config(self, usage_context: str) -> Any:
        """Fill in the defaults and return the configuration."""
        if self.max_model_len < 1:
            raise ValueError(f"max_model_len {self.max_model_len}: must be positive")
        model_config = self.create_model_config()
        self.max_num_batched_tokens = self.max_num_batched_tokens or (96 if "SERVER" in usage_context else 128)
        self.max_num_seqs = self.max_num_seqs or 4
        config = make_config(**self.arguments())
        config.model_config = model_config
        return config

    def arguments(self) -> dict[str, Any]:
        """Every field that was set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def text_of(model: str) -> str | None:
    """The config.json of a model's directory; None where it has none."""
    path = Path(model) / "config.json"
    return path.read_text() if path.is_file() else None
