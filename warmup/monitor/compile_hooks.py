"""Hooks that report compilations, one per compiler, which leave nothing behind when removed.

FlashInfer: the ninja run under every nvcc build. Triton: its compilation listener. CuTe-DSL: the method under every
compilation. A hook that cannot be installed says why; it is never silently absent.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["flashinfer", "triton", "cute_dsl"]


@dataclass(frozen=True, slots=True)
class Compilation:
    """Something was compiled, or fetched from a disk cache on first use in this process."""

    kind: Kind
    kernel: str
    signature: str
    """Argument types, for a module its ninja file."""
    from_disk: bool
    """No compiler ran, but the first use in this process still had to load it."""
    shape: str = ""
    """The process's current work, as `running` was told."""

    def __str__(self) -> str:
        how = "loaded from disk" if self.from_disk else "compiled"
        where = self.shape or "no named shape"
        return f"{self.kind} kernel {self.kernel}({self.signature}) was {how} while running {where}"


Report = Callable[[Compilation], None]


class CompileHook(Protocol):
    """One compiler."""

    kind: Kind
    module: str
    """What `install` wraps an attribute of, and imports where nobody has yet."""

    def install(self, report: Report) -> str | None:
        """Start reporting, or return the reason why this process cannot."""

    def remove(self) -> None:
        """Put everything back."""


class Wrapped:
    """One attribute that calls through a wrapper of ours until `remove`, whatever else wrapped it before or since.

    Monitors may overlap and end in any order. Each hears everything until it ends, and the last one restores the
    original.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace `owner.name` by `wrap(what was there)`."""
        self.is_live, self.below = True, getattr(owner, name)
        self._owner, self._name = owner, name
        wrapper: Any = wrap(self.below)

        def top(*args: Any, **named: Any) -> Any:
            if self.is_live:
                return wrapper(*args, **named)
            if self.below is None:
                return None
            return self.below(*args, **named)

        # Lets `remove` find its own wrapper below those that others added since.
        top.wrapped = self  # type: ignore[attr-defined]
        setattr(owner, name, top)

    def remove(self) -> None:
        """Unwrap the attribute.

        Wrappers that others added on top stay.
        """
        self.is_live = False
        current = getattr(self._owner, self._name)
        # Ended wrappers below live ones stay in the chain and only pass calls on.
        while isinstance(found := getattr(current, "wrapped", None), Wrapped) and not found.is_live:
            current = found.below
        setattr(self._owner, self._name, current)


class _Hook:
    """Base of hooks that wrap at most one attribute."""

    def __init__(self) -> None:
        self._wrapped: Wrapped | None = None

    def remove(self) -> None:
        """See `CompileHook.remove`."""
        if self._wrapped is not None:
            self._wrapped.remove()
            self._wrapped = None


class TritonHook(_Hook):
    """`triton.knobs.compilation.listener`, chained to whatever listened before."""

    kind: Kind = "triton"
    module = "triton.knobs"

    def install(self, report: Report) -> str | None:
        """See `CompileHook.install`."""
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"

        def listening(previous: Any) -> Callable[..., None]:
            def listener(*, src: Any, cache_hit: bool, **rest: Any) -> None:
                if previous is not None:
                    previous(src=src, cache_hit=cache_hit, **rest)
                signature = getattr(src, "signature", {})
                types = ", ".join(f"{name}: {kind}" for name, kind in dict(signature).items())
                report(Compilation("triton", str(getattr(src, "name", src)), types, from_disk=cache_hit))

            return listener

        self._wrapped = Wrapped(importlib.import_module(self.module).compilation, "listener", listening)
        return None


class FlashInferHook(_Hook):
    """Hook on `run_ninja`, which FlashInfer's module builds call.

    A build that changes no library counts as a load.
    """

    kind: Kind = "flashinfer"
    module = "flashinfer.jit.core"

    def install(self, report: Report) -> str | None:
        """See `CompileHook.install`."""
        if importlib.util.find_spec("flashinfer") is None:
            return "flashinfer is not installed"

        def watched(original: Any) -> Callable[..., Any]:
            def run_ninja(workdir: Path, ninja_file: Path, *rest: Any, **named: Any) -> Any:
                before = _library_times(workdir)
                result = original(workdir, ninja_file, *rest, **named)
                untouched = bool(before) and before == _library_times(workdir)
                report(Compilation("flashinfer", Path(workdir).name, Path(ninja_file).name, from_disk=untouched))
                return result

            return run_ninja

        self._wrapped = Wrapped(importlib.import_module(self.module), "run_ninja", watched)
        return None


class CuteDslHook(_Hook):
    """`compile_and_cache` of the CuTe-DSL's front end, which runs once for each compiled function.

    Proven with a real compilation for the host; no kernel for a GPU has been compiled under it yet.
    """

    kind: Kind = "cute_dsl"
    module = "cutlass.cutlass_dsl"

    def install(self, report: Report) -> str | None:
        """See `CompileHook.install`."""
        if not (importlib.util.find_spec("cutlass") and importlib.util.find_spec(self.module)):
            return "nvidia-cutlass-dsl is not installed"
        front_end = importlib.import_module(self.module).CuTeDSL
        owner = next((cls for cls in front_end.__mro__ if "compile_and_cache" in vars(cls)), None)
        if owner is None:
            return "this nvidia-cutlass-dsl has no compile_and_cache"

        def watched(original: Any) -> Callable[..., Any]:
            def compile_and_cache(
                dsl: Any, module: Any, module_hash: Any, function_name: str, *rest: Any, **named: Any
            ) -> Any:
                result = original(dsl, module, module_hash, function_name, *rest, **named)
                name = named.get("original_function_name") or function_name
                report(Compilation("cute_dsl", str(name), function_name, from_disk=False))
                return result

            return compile_and_cache

        self._wrapped = Wrapped(owner, "compile_and_cache", watched)
        return None


def default_hooks() -> tuple[CompileHook, ...]:
    """One fresh hook per compiler."""
    return FlashInferHook(), TritonHook(), CuteDslHook()


def _library_times(workdir: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(workdir).glob("*.so")}
