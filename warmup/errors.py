"""Errors of the warmup other than a wrong configuration, one class each.

    WarmupError
    ├── ArtifactError            bytes that came from disk or from another process
    │   ├── CorruptArtifactError     truncated, flipped, oversized, not what its digest says
    │   ├── RejectedArtifactError    well-formed, but of another environment, class or schema
    │   └── UnsafeArchiveError       a member that would leave its directory
    ├── StoreError               the node store could not be read or written
    ├── TuningError              an op could not be tuned or built
    │   ├── CompileError             a module did not build
    │   └── DeadContextError         the CUDA context is gone; the process must be replaced
    ├── LoadError                a rank did not load exactly what it was sent
    ├── WorkloadError            a workload cannot be built from this model
    ├── MessageError             what came from another process is no message of this version
    ├── EngineError              an engine did not start, did not answer, or is not the one that was asked for
    │   └── EngineRequestError       the config asks for what the engine refuses, or for what is not covered
    ├── EngineWarmupError        an engine warmup could not be run to its end
    │   ├── EngineWarmupTimeoutError     it missed its deadline
    │   └── UnexpectedCompilationError   something was compiled after ready (monitor in `raise` mode)
    └── ForecastError            a node without a GPU was asked what a rank with one would find

Wrong configuration is a `ray_warmup.configs.ConfigError` (a `ValueError`). Errors cross process borders:
each one keeps its attributes through pickling (`tests/test_architecture.py`).
"""

from __future__ import annotations


class WarmupError(Exception):
    """A warmup failed.

    `details` locates the failure as plain JSON values.
    """

    def __init__(self, message: str, **details: str | int | float | bool | None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[WarmupError], message: str, details: dict[str, str | int | float | bool | None]) -> WarmupError:
    return kind(message, **details)


class ArtifactError(WarmupError):
    """Bytes from disk or from another process were refused."""


class CorruptArtifactError(ArtifactError):
    """The bytes are truncated, damaged, oversized or do not match their digest."""


class RejectedArtifactError(ArtifactError):
    """The bytes are well-formed but belong to another environment, class or schema."""


class UnsafeArchiveError(ArtifactError):
    """An archive member would be written outside its target directory."""


class StoreError(WarmupError):
    """The node store could not be read or written."""


class TuningError(WarmupError):
    """An op could not be tuned."""


class CompileError(TuningError):
    """A FlashInfer module or a Triton kernel did not build."""


class DeadContextError(TuningError):
    """The CUDA context of this process is dead.

    Only a new process can continue.
    """


class LoadError(WarmupError):
    """A rank did not load exactly the table that it was sent."""


class WorkloadError(WarmupError):
    """A workload cannot be built from this model on this GPU."""


class ForecastError(WarmupError):
    """A rank's lookup cannot be predicted on this node."""


class MessageError(WarmupError):
    """Bytes from another process are no message of this version."""


class EngineError(WarmupError):
    """An engine did not start, did not answer, or is not the one that was asked for."""


class EngineRequestError(EngineError):
    """A config asks for what the engine refuses, cannot resolve, or what is not covered."""


class EngineWarmupError(WarmupError):
    """An engine warmup could not be run to its end."""


class EngineWarmupTimeoutError(EngineWarmupError):
    """An engine warmup missed its deadline."""


class UnexpectedCompilationError(EngineWarmupError):
    """Something was compiled after the process had reported ready."""
