"""Why an engine did not start, or a model could not be resolved: named, with the setting to change."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.engines.front_end.model_errors import named
from ray_warmup.warmup.engines.start.exit_message import last_words, secrets_in
from ray_warmup.warmup.engines.start.failure_causes import cause_of
from ray_warmup.warmup.errors import EngineError, EngineRequestError


class GatedRepoError(Exception):
    """The hub's error of this name."""


class RepositoryNotFoundError(Exception):
    """The hub's error of this name."""


class LocalEntryNotFoundError(Exception):
    """The hub's error of this name."""


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "engine.args.tensor_parallel_size"),
        ("ValueError: No available memory for the cache blocks.", "engine.args.tensor_parallel_size"),
        (
            "ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.2 GiB).",
            "the GPU is busy: another process holds its memory",
        ),
        ("RuntimeError: No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
        ("OSError: [Errno 28] No space left on device", "TMPDIR"),
    ],
)
def test_the_last_words_of_an_engine_name_the_cause(said: str, setting: str) -> None:
    """The cause comes first, what the engine printed comes after it."""
    told = last_words(f"INFO starting\n{said}", frozenset())
    assert setting in told.splitlines()[0]
    assert told.endswith(said)
    assert cause_of("INFO everything is fine") == ""


def test_last_words_hold_no_secret() -> None:
    """Neither of the config nor of the environment."""
    secrets = secrets_in({"HF_TOKEN": "hf_environment", "HOME": "/root"}) | {"hf_config"}
    told = last_words("non-default args: {'hf_token': 'hf_config'}\nHF_TOKEN=hf_environment\n", secrets)
    assert told.count("(secret)") == 2
    assert "hf_config" not in told
    assert "hf_environment" not in told


@pytest.mark.parametrize(
    ("error", "offline", "kind", "words"),
    [
        (
            GatedRepoError("403"),
            False,
            EngineError,
            "m is gated and this node has no token that opens it: set HF_TOKEN",
        ),
        (LocalEntryNotFoundError("x"), False, EngineError, "the hub cannot be asked"),
        (ValueError("Invalid repository ID or local directory specified: 'm'"), True, EngineError, "cannot be asked"),
        (ValueError("Invalid repository ID or local directory"), False, EngineRequestError, "m cannot be resolved"),
        (RepositoryNotFoundError("404"), False, EngineRequestError, "m cannot be resolved"),
        (ValueError("max_model_len (9) is greater"), False, EngineRequestError, "vLLM refuses them: ValueError: max_"),
        (MemoryError("x"), False, EngineError, "could not resolve the request: MemoryError"),
    ],
)
def test_a_models_error_is_the_configs_or_the_nodes(
    error: Exception, offline: bool, kind: type[EngineError], words: str
) -> None:
    """Exit code 2 for what the config says wrong, 1 for what the node lacks; also behind another error."""
    wrapped = OSError("could not load")
    wrapped.__cause__ = error
    found = named(error, "vLLM", "model", "m", is_offline=offline)
    assert type(found) is kind
    assert words in str(found)
    if type(error).__name__ in ("GatedRepoError", "LocalEntryNotFoundError", "RepositoryNotFoundError"):
        assert type(named(wrapped, "vLLM", "model", "m", is_offline=offline)) is kind


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_directory_that_is_not_there_is_called_so(is_offline: bool) -> None:
    """The hub would say that a path is no name of a repository."""
    found = named(RepositoryNotFoundError("Repo id must use ..."), "vLLM", "model", "/missing/m", is_offline=is_offline)
    assert type(found) is EngineRequestError
    assert str(found) == "engine.args.model: /missing/m cannot be resolved on this node: no such directory"
