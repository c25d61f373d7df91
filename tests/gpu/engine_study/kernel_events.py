"""Which kernels a process compiled and which it loaded: Triton's listener, FlashInfer's builds, and loading ahead."""

from __future__ import annotations

import functools
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tests.gpu.engine_study.events import FOLDER, record

PRELOAD = "ENGINE_STUDY_PRELOAD"
"""The variable that names a file of specialisations to load before the engine's monitor watches."""

_seen: set[str] = set()


def watch_triton() -> None:
    """Record every kernel that Triton compiles or finds on disk, and the specialisation that would load it again."""
    from triton import knobs
    from triton.runtime import jit

    original = jit.serialize_specialization_data

    @functools.wraps(original)
    def lenient(*arguments: Any, **keywords: Any) -> Any:
        try:
            return original(*arguments, **keywords)
        except (TypeError, ValueError):
            return None

    jit.serialize_specialization_data = lenient
    knobs.compilation.listener = _on_compile
    knobs.runtime.jit_post_compile_hook = _on_specialised


def _on_compile(**event: Any) -> None:
    times = event["times"]
    record(
        "triton",
        name=getattr(event["src"], "name", "?"),
        hit=bool(event["cache_hit"]),
        seconds=round(times.total / 1e6, 4) if times is not None else None,
        folder=str(Path(next(iter(event["metadata_group"].values()), "?")).parent.parent),
    )


def _on_specialised(**event: Any) -> None:
    data = event["compile"].get("specialization_data")
    function = f"{event['fn'].module}:{event['fn'].name}"
    if data is None:
        record("unserialised", name=function, constants=repr(event["compile"].get("constants"))[:400])
        return
    _seen.add(data)
    folder = os.environ.get(FOLDER)
    if folder is not None:
        with Path(folder, f"specialisations-{os.getpid()}.txt").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"function": function, "data": data}) + "\n")


def preload(path: Path) -> None:
    """Load recorded specialisations into this process, before a monitor that reports them is switched on."""
    from triton.runtime.jit import _triton_jit_function_registry as registry

    began, loaded, failed = time.time(), 0, []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["data"] in _seen:
            continue
        try:
            if row["function"] not in registry:
                importlib.import_module(row["function"].split(":")[0])
            registry[row["function"]].preload(row["data"])
            loaded += 1
        except Exception as error:
            failed.append(f"{row['function']}: {type(error).__name__}: {error}"[:300])
    record("preloaded", count=loaded, failed=failed, seconds=round(time.time() - began, 3))


def watch_flashinfer() -> None:
    """Record every module that FlashInfer builds, and every one that it finds ahead of time."""
    from flashinfer.jit.core import JitSpecNvcc

    if getattr(JitSpecNvcc.build, "_is_watched", False):
        return
    build, try_load = JitSpecNvcc.build, JitSpecNvcc.try_load

    @functools.wraps(build)
    def watched_build(self: Any, *arguments: Any, **keywords: Any) -> Any:
        began, is_there = time.time(), self.jit_library_path.exists()
        try:
            return build(self, *arguments, **keywords)
        finally:
            record("flashinfer build", name=self.name, was_there=is_there, seconds=round(time.time() - began, 2))

    @functools.wraps(try_load)
    def watched_load(self: Any) -> Any:
        found = try_load(self)
        record("flashinfer ahead of time", name=self.name, found=found is not None)
        return found

    watched_build._is_watched = True  # type: ignore[attr-defined]
    JitSpecNvcc.build, JitSpecNvcc.try_load = watched_build, watched_load
