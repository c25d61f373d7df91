"""Triton's entries: really compiled here (its own ptxas needs no GPU), shipped, and hit by another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import triton_cache
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, StoreError, UnsafeArchiveError
from tests.artifacts import ROOT

PROGRAM = """
import json, os, sys
from pathlib import Path
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ray_warmup.warmup.caches.triton_cache import Recorder

@triton.jit
def add_one(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n) + 1.0, mask=at < n)

recorder = Recorder()
recorder.start()
for block in map(int, sys.argv[2].split(",")):
    signature = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=add_one, signature=signature, constexprs={(3,): block})
    triton.compile(source, target=GPUTarget("cuda", 90, 32))
recorder.stop(Path(os.environ["TRITON_CACHE_DIR"]))
Path(sys.argv[1]).write_text(json.dumps([recorder.compilations, sorted(recorder.used)]))
"""


def compile_in(cache: Path, blocks: str, tmp_path: Path) -> tuple[int, list[str]]:
    """Compile the kernel for these block sizes in a fresh process: (compilations, entries used)."""
    program, report = tmp_path / "program.py", tmp_path / "report.json"
    program.write_text(PROGRAM)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program), str(report), blocks],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    compilations, used = json.loads(report.read_text())
    return compilations, used


def test_shipped_entries_hit_in_another_cache(tmp_path: Path) -> None:
    """What one process compiled, another finds after the installation, and only what was used is shipped."""
    here, there = tmp_path / "here", tmp_path / "there"
    assert compile_in(here, "64,128", tmp_path)[0] == 2
    compilations, used = compile_in(here, "128", tmp_path)
    contents = triton_cache.collect(here, used)
    written = triton_cache.install(contents, there)

    assert (compilations, len(used), len(triton_cache.snapshot(here))) == (0, 1, 2)
    assert written[-1].name == "__grp__add_one.json"
    assert str(here) not in written[-1].read_text()
    assert compile_in(there, "128", tmp_path)[0] == 0
    assert compile_in(there, "64", tmp_path)[0] == 1
    assert triton_cache.install(contents, there) == []


def entry(tmp_path: Path, children: Any = None) -> Path:
    """A cache directory with one finished entry."""
    directory = tmp_path / "cache" / "ABC"
    directory.mkdir(parents=True)
    (directory / "k.cubin").write_bytes(b"cubin")
    paths = {"k.cubin": str(directory / "k.cubin")} if children is None else children
    (directory / "__grp__k.json").write_text(json.dumps({"child_paths": paths}))
    (directory / "tmp.pid_1_x").mkdir()
    (directory / "lock").write_text("")
    return directory.parent


def test_collect_ships_bare_names_and_nothing_temporary(tmp_path: Path) -> None:
    """Groups carry names without paths; locks and temporary directories stay behind."""
    contents = triton_cache.collect(entry(tmp_path), ["ABC", "GONE"])

    assert {content.path: bytes(content.data) for content in contents} == {
        "ABC/__grp__k.json": b'{"child_paths": {"k.cubin": "k.cubin"}}',
        "ABC/k.cubin": b"cubin",
    }


def test_unfinished_entries_are_left_out(tmp_path: Path) -> None:
    """A group whose file is missing is not shipped."""
    cache = entry(tmp_path, {"k.cubin": "/x/k.cubin", "k.json": "/x/k.json"})

    assert triton_cache.collect(cache, ["ABC"]) == ()


@pytest.mark.parametrize(
    ("group", "error"),
    [
        (b'{"child_paths": {"../../escape": "x"}}', UnsafeArchiveError),
        (b'{"child_paths": {"/etc/passwd": "x"}}', UnsafeArchiveError),
        (b'{"child_paths": {"other.cubin": "x"}}', UnsafeArchiveError),
        (b'{"child_paths": 3}', CorruptArtifactError),
        (b"{", CorruptArtifactError),
    ],
)
def test_groups_cannot_name_other_files(tmp_path: Path, group: bytes, error: type[ArtifactError]) -> None:
    """A shipped group may only name files of its own entry."""
    contents = [Content("triton_cache", "E/__grp__k.json", group), Content("triton_cache", "E/k.cubin", b"x")]

    with pytest.raises(error):
        triton_cache.install(contents, tmp_path / "cache")
    assert not (tmp_path / "cache/E/__grp__k.json").exists()


def test_broken_group_in_place_is_replaced(tmp_path: Path) -> None:
    """A group that points to files that are gone is rewritten; a whole one is kept."""
    contents = triton_cache.collect(entry(tmp_path), ["ABC"])
    there = tmp_path / "there"
    triton_cache.install(contents, there)
    group = there / "ABC" / "__grp__k.json"
    group.write_text('{"child_paths": {"k.cubin": "/gone/k.cubin"}}')

    assert triton_cache.install(contents, there) == [group]
    assert json.loads(group.read_text())["child_paths"] == {"k.cubin": str(there / "ABC" / "k.cubin")}


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_nested_group_in_place_is_replaced(tmp_path: Path, depth: int) -> None:
    """A group that no reader can follow counts as broken, whatever its depth."""
    contents = triton_cache.collect(entry(tmp_path), ["ABC"])
    there = tmp_path / "there"
    triton_cache.install(contents, there)
    group = there / "ABC" / "__grp__k.json"
    group.write_text('{"child_paths":' * depth + "1" + "}" * depth)
    assert triton_cache.install(contents, there) == [group]


def test_a_pipe_in_place_of_a_group_blocks_nobody(tmp_path: Path) -> None:
    """It is neither read nor replaced, and named."""
    contents = triton_cache.collect(entry(tmp_path), ["ABC"])
    group = tmp_path / "there" / "ABC" / "__grp__k.json"
    group.parent.mkdir(parents=True)
    os.mkfifo(group)
    with pytest.raises(StoreError, match="not a regular file"):
        triton_cache.install(contents, tmp_path / "there")


def test_triton_hashes_its_installation_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is asked of Triton once, in a thread of its own that does not keep the process alive."""
    seen: list[threading.Thread] = []
    monkeypatch.setattr("triton.runtime.cache.triton_key", lambda: seen.append(threading.current_thread()))
    thread = triton_cache.hash_installation()
    thread.join(10)
    assert seen == [thread]
    assert thread.daemon
