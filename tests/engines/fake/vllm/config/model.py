"""The model's configuration, and what the headers of its checkpoint say."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm import Section


def checkpoint_has_lm_head(model: str, *, revision: str | None = None) -> bool | None:
    """Whether a header of a safetensors file names an `lm_head`; None without files."""
    files = sorted(Path(model).glob("*.safetensors"))
    if not files:
        return None
    return any(name.endswith("lm_head.weight") for file in files for name in _header(file))


class ModelConfig(Section):
    """What of the model decides kernels."""

    def maybe_untie_word_embeddings(self) -> None:
        """Stop trusting config.json where the checkpoint has an `lm_head` of its own."""
        if self.hf_config.tie_word_embeddings and checkpoint_has_lm_head(self.model, revision=self.revision):
            self.hf_config.tie_word_embeddings = False
            self.word_embeddings_untied_by_checkpoint = True


def model_config(**arguments: Any) -> ModelConfig:
    """Read config.json where the model is a directory of this node."""
    path = Path(arguments["model"]) / "config.json"
    document = json.loads(path.read_text()) if path.is_file() else {}
    tied = bool(document.get("tie_word_embeddings", False))
    hf_config = SimpleNamespace(
        _name_or_path=arguments["model"],
        tie_word_embeddings=tied,
        **{name: value for name, value in document.items() if name != "tie_word_embeddings"},
    )
    return ModelConfig(
        model=arguments["model"],
        revision=arguments.get("revision"),
        dtype="float32",
        max_model_len=arguments.get("max_model_len", 64),
        max_logprobs=arguments.get("max_logprobs", 20),
        quantization=None,
        word_embeddings_untied_by_checkpoint=False,
        is_multimodal_model="vision_config" in document,
        runner_type="generate",
        hf_config=hf_config,
    )


def _header(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header
