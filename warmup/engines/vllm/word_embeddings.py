"""Let a start with random weights tie the word embeddings as a start with the checkpoint would.

vLLM reads the headers of the checkpoint where config.json says `tie_word_embeddings`: an `lm_head` of its own changes
the configuration, and with it the compile key. With random weights vLLM looks at no checkpoint, so a recording would
be that of another engine.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from ray_warmup.warmup.errors import EngineRequestError

LmHead = Literal["read", "tied", "own"]


def decide_as_the_checkpoint(lm_head: LmHead) -> None:
    """Wrap vLLM's `EngineArgs.create_model_config` in this process.

    What is wrapped raises EngineRequestError where the answer could differ and cannot be read.
    """
    from vllm.engine.arg_utils import EngineArgs

    original = EngineArgs.create_model_config

    @functools.wraps(original)
    def create_model_config(self: Any) -> Any:
        config = original(self)
        if self.load_format == "dummy" and getattr(config.hf_config, "tie_word_embeddings", False):
            _decide(config, lm_head)
        return config

    EngineArgs.create_model_config = create_model_config


def _decide(config: Any, lm_head: LmHead) -> None:
    """Untie the word embeddings of a model's configuration by vLLM's own method where the checkpoint has a head."""
    from vllm.config import model as model_module

    if lm_head == "tied":
        return
    read = model_module.checkpoint_has_lm_head
    has_head = True
    if lm_head != "own":
        has_head = read(config.model, revision=config.revision)
    if has_head is None:
        raise EngineRequestError(
            f"engine.lm_head: read: config.json of {config.model} ties the word embeddings, and no safetensors headers "
            "say whether the checkpoint has an lm_head of its own, which would compile otherwise; set engine.lm_head "
            "to tied or own, or give the checkpoint",
            field="engine.lm_head",
        )
    if has_head:
        model_module.checkpoint_has_lm_head = lambda *_, **__: True
        try:
            config.maybe_untie_word_embeddings()
        finally:
            model_module.checkpoint_has_lm_head = read
