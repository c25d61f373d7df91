"""Recorded Triton kernels: written, read again, loaded ahead, and named where they cannot be."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ray_warmup.warmup.engines.artifacts.specialisations import (
    Specialisation,
    SpecialisationRecorder,
    from_bytes,
    preload,
    to_bytes,
)

RECORDED = (Specialisation("package.module:kernel", '{"a": 1}'), Specialisation("other:kernel", "{}"))


DATA = '{"key": "k"}'


def kernel(preload: Callable[[str], None], held: tuple[str, ...] = ()) -> SimpleNamespace:
    """A function of Triton's registry, and the keys of the kernels that a process holds of it."""
    return SimpleNamespace(preload=preload, device_caches={0: ({key: object() for key in held}, {})})


def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton name device 0."""
    active = SimpleNamespace(get_current_device=lambda: 0)
    module = importlib.import_module("triton.runtime.driver")  # the package has an object of this name, too
    monkeypatch.setattr(module, "driver", SimpleNamespace(active=active))


def test_what_was_written_is_read_again() -> None:
    """Order and texts stay; nothing is nothing."""
    assert from_bytes(to_bytes(RECORDED)) == RECORDED
    assert from_bytes(b"") == ()


@pytest.mark.parametrize("data", [b"{}\n", b'["one"]\n', b"[1, 2]\n", b"half"])
def test_what_is_no_specialisation_is_refused(data: bytes) -> None:
    """Other shapes, other types, no JSON."""
    with pytest.raises(ValueError, match=r"pair of texts|Expecting value|Extra data"):
        from_bytes(data)


def test_kernels_are_loaded_and_failures_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is unknown or refuses does not keep the next one from being loaded."""
    loaded: list[str] = []

    def refuse(data: str) -> None:
        raise RuntimeError(f"no such kernel {data}")

    registry = {"tests.gemms:one": kernel(loaded.append), "tests.gemms:two": kernel(refuse)}
    monkeypatch.setattr("triton.runtime.jit._triton_jit_function_registry", registry)
    on_device(monkeypatch)
    rows = [Specialisation(name, DATA) for name in ("nowhere.module:x", "tests.gemms:two", "tests.gemms:one")]

    done = preload(rows)

    assert (done.loaded, loaded) == (1, [DATA])
    assert [failure.split(":")[0] for failure in done.failed] == ["nowhere.module", "tests.gemms"]
    assert f"no such kernel {DATA}" in done.failed[1]


def test_a_kernel_that_the_process_holds_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in a captured graph: loading it again would unload it there (a segmentation fault on an H200)."""
    loaded: list[str] = []
    monkeypatch.setattr(
        "triton.runtime.jit._triton_jit_function_registry", {"tests.gemms:one": kernel(loaded.append, held=("k",))}
    )
    on_device(monkeypatch)

    done = preload([Specialisation("tests.gemms:one", DATA), Specialisation("tests.gemms:one", '{"key": "other"}')])

    assert (done.loaded, done.failed, loaded) == (1, (), ['{"key": "other"}'])


def test_each_kernel_is_heard_once_beside_whoever_listened_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose constants cannot be written is left out; a hook that was set is still called."""
    import triton.knobs

    earlier: list[Any] = []
    new: list[int] = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **event: earlier.append(event))
    monkeypatch.setattr("triton.runtime.jit.serialize_specialization_data", lambda *args: 1 / 0)
    recorder = SpecialisationRecorder(lambda: new.append(1))
    recorder.install()
    kernel = SimpleNamespace(module="module", name="kernel")

    for data in ("{}", "{}", None):
        triton.knobs.runtime.jit_post_compile_hook(fn=kernel, compile={"specialization_data": data})

    assert recorder.seen == (Specialisation("module:kernel", "{}"),)
    assert (len(earlier), new) == (3, [1])
