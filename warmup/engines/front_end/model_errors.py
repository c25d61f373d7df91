"""Name why an engine could not resolve a model or refused its arguments, with the setting to change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray_warmup.warmup.errors import EngineError, EngineRequestError

GATED = {"GatedRepoError"}
UNREACHABLE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectTimeout", "ConnectError"}
UNKNOWN = {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError", "EntryNotFoundError"}
REFUSED = (ValueError, TypeError, NotImplementedError, AssertionError)
UNRESOLVED = ("Invalid repository ID or local directory", "not a valid model identifier", "No such file or directory")
LONGEST = 1000
"""Characters of the engine's own text."""


def named(error: BaseException, engine: str, argument: str, model: str, *, is_offline: bool) -> EngineError:
    """Return an error that names the model, which `argument` gave, or the arguments, and what to change.

    What the config says wrong is an EngineRequestError.
    """
    if isinstance(error, EngineError):
        return error
    kinds = {type(link).__name__ for link in _chain(error)}
    text = f"{type(error).__name__}: {error}"[:LONGEST]
    if kinds & GATED:
        return EngineError(
            f"engine.args.{argument}: {model} is gated and this node has no token that opens it: set HF_TOKEN there, "
            f"or give a directory; {text}"
        )
    is_unresolved = any(part in str(link) for link in _chain(error) for part in UNRESOLVED)
    is_unknown = is_unresolved or bool(kinds & UNKNOWN)
    if (is_unknown or kinds & UNREACHABLE) and is_path(model) and not Path(model).expanduser().is_dir():
        return EngineRequestError(f"engine.args.{argument}: {model} cannot be resolved on this node: no such directory")
    if kinds & UNREACHABLE or (is_unresolved and is_offline):
        return EngineError(
            f"engine.args.{argument}: {model} is no directory of this node, is not in its Hugging Face cache, and the "
            f"hub cannot be asked (HF_HUB_OFFLINE, network, HF_TOKEN of a gated name): give a directory, or download "
            f"it there; {text}"
        )
    if is_unknown:
        return EngineRequestError(f"engine.args.{argument}: {model} cannot be resolved on this node: {text}")
    if isinstance(error, REFUSED):
        return EngineRequestError(f"engine.args: {engine} refuses them: {text}")
    return EngineError(f"{engine} could not resolve the request: {text}")


def is_path(model: str) -> bool:
    """Return True for what nobody means as a name of the hub."""
    return model.startswith(("/", "./", "../", "~"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that it was raised from."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
