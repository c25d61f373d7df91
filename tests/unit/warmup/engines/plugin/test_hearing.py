"""An engine's compilers are heard from their import on, and not imported to be heard."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

COUNTER = """
    import sys
    from ray_warmup.warmup.engines.plugin.counting import CompileCounter

    counter = CompileCounter(lambda: None, lambda: (0, 0))
    counter.install()
"""


def printed(*parts: str) -> list[str]:
    """Lines that a process of its own prints."""
    code = "\n".join(dedent(part) for part in parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


def test_listening_imports_no_compiler() -> None:
    """An engine that needs neither FlashInfer nor Triton does not wait for their import."""
    ask = 'print({"torch", "triton", "flashinfer", "cutlass"} & set(sys.modules), counter.deaf)'
    assert printed(COUNTER, ask) == ["set() {}"]


def test_a_compiler_is_heard_from_its_import_on() -> None:
    """A kernel that Triton compiles after the counter was installed is counted by its name."""
    compile_one = """
        from types import SimpleNamespace
        from triton import knobs

        knobs.compilation.listener(src=SimpleNamespace(name="add", signature={}), cache_hit=False)
        print(counter.counts().compiled, counter.counts().names, counter.deaf)
    """
    assert printed(COUNTER, compile_one) == ["{'triton_cache': 1} ['triton_cache: add'] {}"]


def test_a_compiler_that_cannot_be_heard_is_named() -> None:
    """Its import goes on, and the reason is told with the counts."""
    other = """
        from types import ModuleType
        from ray_warmup.warmup.monitor.compile_hooks import FlashInferHook

        FlashInferHook.module = "json.tool"
        counter.install()
        import json.tool
        print(list(counter.deaf), "json.tool is another than was read" in counter.deaf.get("flashinfer", ""))
    """
    assert printed(COUNTER, other) == ["['flashinfer'] True"]
