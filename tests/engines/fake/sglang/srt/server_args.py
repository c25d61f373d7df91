"""Arguments of the fake SGLang: read from a command line, resolved once."""

from __future__ import annotations

import json
import random
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class ServerArgs:
    """What is given, and after `resolve_once` what holds."""

    model_path: str = ""
    tokenizer_path: str | None = None
    load_format: str = "auto"
    skip_tokenizer_init: bool = False
    revision: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    max_running_requests: int | None = None
    chunked_prefill_size: int | None = None
    mem_fraction_static: float | None = None
    tp_size: int = 1
    ep_size: int = 1
    random_seed: int | None = None
    served_model_name: str | None = None
    hf_token: str | None = None
    log_level: str = "info"
    disable_radix_cache: bool = False
    cuda_graph_bs: list[int] | None = None
    json_model_override_args: str = "{}"
    fault: str | None = None
    slow_s: int = 0
    speculative_algorithm: str | None = None

    @staticmethod
    def add_cli_args(parser: ArgumentParser) -> None:
        """One option a field, without a negative form for truth values."""
        for field in fields(ServerArgs):
            option = "--" + field.name.replace("_", "-")
            if isinstance(field.default, bool):
                parser.add_argument(option, action="store_true", default=field.default)
            elif field.name == "cuda_graph_bs":
                parser.add_argument(option, nargs="+", type=int, default=None)
            else:
                kinds = {"float": float, "int": int}
                kind = next((kind for name, kind in kinds.items() if str(field.type).startswith(name)), str)
                parser.add_argument(option, type=kind, default=field.default)

    @classmethod
    def from_cli_args(cls, parsed: Namespace) -> ServerArgs:
        """What was parsed."""
        return cls(**{field.name: getattr(parsed, field.name) for field in fields(cls)})

    def resolve_once(self) -> None:
        """Fill in what was not given."""
        if self.model_path.startswith("/missing"):
            raise OSError(f"{self.model_path} is not a valid model identifier listed on the hub")
        if self.tp_size < 1:
            raise ValueError(f"tp_size {self.tp_size}: must be positive")
        self.tokenizer_path = self.tokenizer_path or self.model_path
        self.served_model_name = self.served_model_name or self.model_path
        self.max_running_requests = self.max_running_requests or 8
        self.chunked_prefill_size = self.chunked_prefill_size or 32
        self.random_seed = self.random_seed or random.randint(0, 1 << 30)

    def resolved_dict(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the model's configuration."""
        found: dict[str, Any] = json.loads(self.json_model_override_args)
        return found
