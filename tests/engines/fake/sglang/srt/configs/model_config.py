"""The model's configuration: its config.json where its directory is here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class ModelConfig:
    """One model."""

    def __init__(self, server_args: Any) -> None:
        path = Path(server_args.model_path) / "config.json"
        members = json.loads(path.read_text()) if path.is_file() else {"hidden_size": 64}
        members = {**members, **server_args.overrides, "_name_or_path": server_args.model_path}
        self.hf_config = SimpleNamespace(to_dict=lambda: dict(members))
        self.context_len = server_args.context_length or 64
        self.is_multimodal = bool(members.get("vision_config"))
        self.is_generation = True

    @staticmethod
    def from_server_args(server_args: Any) -> ModelConfig:
        """As a start has it."""
        return ModelConfig(server_args)
