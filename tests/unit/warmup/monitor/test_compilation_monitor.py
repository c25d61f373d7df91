"""The compilation monitor: each counter sees a real compilation, and nothing of it stays behind."""

from __future__ import annotations

import importlib
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_warmup.warmup.engines.builtin.kernels.launch import kernel
from ray_warmup.warmup.errors import UnexpectedCompilationError
from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor
from ray_warmup.warmup.monitor.compile_hooks import CuteDslHook, FlashInferHook, TritonHook


def test_a_triton_compilation_is_counted_with_kernel_and_shape(compile_kernel: Any, caplog: Any) -> None:
    """A real compilation after ready is counted and warned about, with the kernel's name, types and the shape."""
    with CompilationMonitor(hooks=[TritonHook()]) as monitor, caplog.at_level(logging.WARNING):
        with monitor.running("decode[tokens=4]"):
            compile_kernel(torch.float32)
        compile_kernel(torch.float32)

    report = monitor.report()
    assert (report.compiled, report.loaded, report.is_clean) == ({"triton": 1}, {"triton": 0}, False)
    assert report.events[0].kernel == "scatter_rows_kernel"
    assert "source: *fp32" in report.events[0].signature
    assert "scatter_rows_kernel" in caplog.text
    assert "while running decode[tokens=4]" in caplog.text


def test_a_warm_kernel_is_not_counted(compile_kernel: Any) -> None:
    """A kernel that was compiled before activation is not counted when it runs again."""
    compile_kernel(torch.float32)

    with CompilationMonitor(hooks=[TritonHook()]) as monitor:
        compile_kernel(torch.float32)

    assert monitor.report().is_clean


def test_a_triton_kernel_from_the_disk_cache_is_counted_apart(compile_kernel: Any) -> None:
    """First use of a kernel that lies in Triton's disk cache is a load, not a compilation."""
    compile_kernel(torch.float32)
    kernel.cache_clear()

    with CompilationMonitor(hooks=[TritonHook()]) as monitor:
        compile_kernel(torch.float32)

    assert (monitor.report().compiled, monitor.report().loaded) == ({"triton": 0}, {"triton": 1})


def test_raise_mode_fails_the_step_and_names_the_kernel(compile_kernel: Any) -> None:
    """In raise mode the compilation is an error that names kernel and shape."""
    with (
        CompilationMonitor("raise", hooks=[TritonHook()]) as monitor,
        monitor.running("prefill[tokens=9]"),
        pytest.raises(UnexpectedCompilationError, match=r"scatter_rows_kernel.*while running prefill\[tokens=9\]"),
    ):
        compile_kernel(torch.float16)

    assert monitor.report().compiled == {"triton": 1}


def flashinfer_spec(folder: Path) -> Any:
    """A module of FlashInfer's own build class whose ninja file needs no compiler."""
    from flashinfer.jit import core

    class Spec(core.JitSpecNvcc):
        build_dir = folder / "probe"
        ninja_path = folder / "probe" / "build.ninja"
        jit_library_path = folder / "probe" / "probe.so"
        lock_path = folder / "probe.lock"

        def write_ninja(self) -> None:
            self.build_dir.mkdir(exist_ok=True)
            if not self.ninja_path.exists():
                (self.build_dir / "probe.cu").touch()
                self.ninja_path.write_text("rule copy\n  command = cp $in $out\nbuild probe.so: copy probe.cu\n")

    return Spec(
        name="probe",
        sources=[],
        extra_cflags=None,
        extra_cuda_cflags=None,
        extra_ldflags=None,
        extra_include_dirs=None,
    )


def test_a_flashinfer_build_is_counted_and_a_fresh_module_is_a_load(tmp_path: Path) -> None:
    """FlashInfer's own build method counts as a compilation; ninja finding nothing to do counts as a load."""
    spec = flashinfer_spec(tmp_path)

    with CompilationMonitor(hooks=[FlashInferHook()]) as monitor:
        spec.build()
        spec.build()

    report = monitor.report()
    assert (report.compiled, report.loaded) == ({"flashinfer": 1}, {"flashinfer": 1})
    assert report.events[0].kernel == "probe"


def test_a_cute_dsl_compilation_is_counted(tmp_path: Path) -> None:
    """A real compilation by the CuTe-DSL's front end is counted by its function's name."""
    cute = pytest.importorskip("cutlass.cute", reason="nvidia-cutlass-dsl is not installed")
    from tests.unit.warmup.engines.builtin.warmups import cute_probe

    with CompilationMonitor(hooks=[CuteDslHook()]) as monitor:
        cute.compile(cute_probe.add_one, cute_probe.Int32(3))

    report = monitor.report()
    assert report.compiled == {"cute_dsl": 1}
    assert "add_one" in report.events[0].kernel


def test_every_hook_point_is_put_back() -> None:
    """After deactivation the three compilers are exactly as they were; a second activation works."""
    import triton
    from flashinfer.jit import core

    def points() -> tuple[Any, ...]:
        try:
            from cutlass.cutlass_dsl import CuTeDSL
        except ImportError:
            owned: tuple[Any, ...] = ()
        else:
            owned = tuple(vars(cls).get("compile_and_cache") for cls in CuTeDSL.__mro__)
        return (core.run_ninja, triton.knobs.compilation.listener, *owned)

    before = points()
    monitor = CompilationMonitor()
    for _ in range(2):
        monitor.activate()
        assert points() != before
        monitor.deactivate()
        assert points() == before


def test_an_earlier_triton_listener_still_hears(compile_kernel: Any) -> None:
    """A listener that was there before activation is still called, and is there again afterwards."""
    import triton

    heard: list[str] = []

    def listener(*, src: Any, **rest: Any) -> None:
        heard.append(src.name)

    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = listener
        with CompilationMonitor(hooks=[TritonHook()]):
            compile_kernel(torch.float64)
        restored = triton.knobs.compilation.listener

    assert heard == ["scatter_rows_kernel"]
    assert restored is listener


def test_overlapping_monitors_may_end_in_any_order(compile_kernel: Any) -> None:
    """The one that goes on still counts, the one that ended does not, and nothing of either is left."""
    import triton

    first, second = (CompilationMonitor("count", [TritonHook(), FlashInferHook()]).activate() for _ in range(2))
    compile_kernel(torch.float64)
    first.deactivate()
    compile_kernel(torch.float16)
    second.deactivate()

    assert [monitor.report().compiled["triton"] for monitor in (first, second)] == [1, 2]
    assert triton.knobs.compilation.listener is None
    assert not hasattr(importlib.import_module("flashinfer.jit.core").run_ninja, "wrapped")


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that cannot exist in this process is listed with its reason, not silently zero."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with CompilationMonitor() as monitor:
        report = monitor.report()

    assert report.unavailable == {
        "flashinfer": "flashinfer is not installed",
        "triton": "triton is not installed",
        "cute_dsl": "nvidia-cutlass-dsl is not installed",
    }
    assert set(report.to_json()["compiled"]) == {"flashinfer", "triton", "cute_dsl"}


def test_a_second_activation_is_an_error() -> None:
    """An active monitor cannot be activated again."""
    with CompilationMonitor(hooks=[]) as monitor, pytest.raises(RuntimeError, match="active already"):
        monitor.activate()


def test_a_failing_hook_leaves_no_other_installed() -> None:
    """When one hook cannot be installed because of an error, those installed before it are removed."""
    import triton

    class Broken(TritonHook):
        def install(self, report: Any) -> str | None:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        CompilationMonitor(hooks=[TritonHook(), Broken()]).activate()

    assert triton.knobs.compilation.listener is None


def test_shapes_are_named_per_thread() -> None:
    """The shape of one thread does not appear in the events of another."""
    from ray_warmup.warmup.monitor.compile_hooks import Compilation

    monitor = CompilationMonitor(hooks=[TritonHook()])
    event = Compilation("triton", "k", "", from_disk=False)
    with monitor.running("here"):
        thread = threading.Thread(target=monitor._record, args=(event,))
        thread.start()
        thread.join()
        monitor._record(event)

    assert [seen.shape for seen in monitor.report().events] == ["", "here"]
