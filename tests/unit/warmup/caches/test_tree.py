"""A kind's directory as contents and back: finished files only, entry by entry, ours known again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from ray_warmup.warmup import caches
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.left_out import LEFT_OUT
from ray_warmup.warmup.caches.placed import PlacedRegister, register
from ray_warmup.warmup.caches.placing import Placed, placing
from ray_warmup.warmup.caches.tree import TreeLayout
from ray_warmup.warmup.engines.plugin.counting import gained_since
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER

LAYOUT = TreeLayout("deep_gemm", entry_depth=1, ignored=("tmp", "*.lock"))


@pytest.fixture
def placed(tmp_path: Path) -> PlacedRegister:
    """An empty register."""
    return register(tmp_path / "root")


def filled(directory: Path) -> Path:
    """A cache with two finished entries and what belongs to nobody."""
    for name in ("one/k.cubin", "one/meta.json", "two/k.cubin", "tmp/half", "two/k.lock", ".hidden/x"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (directory / "link").symlink_to(directory / "one")
    return directory


def put(
    layout: TreeLayout, contents: Sequence[Content], directory: Path, placed: PlacedRegister, store: Path
) -> Placed:
    """One round of placing."""
    with placing(placed, store) as round_:
        return round_.tree(layout, contents, directory)


def test_finished_files_are_collected(tmp_path: Path) -> None:
    """Ignored and hidden names and links are left out; an absent directory is empty."""
    contents = LAYOUT.collect(filled(tmp_path / "cache"), "some/")
    assert [content.path for content in contents] == ["some/one/k.cubin", "some/one/meta.json", "some/two/k.cubin"]
    assert LAYOUT.collect(tmp_path / "nowhere") == ()


def test_entries_arrive_in_another_directory(tmp_path: Path, placed: PlacedRegister) -> None:
    """Equal files; a second placing finds everything there."""
    contents = LAYOUT.collect(filled(tmp_path / "cache"))
    first = put(LAYOUT, contents, tmp_path / "other", placed, tmp_path / "store")
    second = put(LAYOUT, contents, tmp_path / "other", placed, tmp_path / "store")

    assert LAYOUT.collect(tmp_path / "other") == contents
    assert [path.name for path in first.written] == ["one", "two"]
    assert (second.written, [path.name for path in second.present]) == ((), ["one", "two"])
    (found,) = placed.directories()
    assert {entry.name for entry in found.entries} == {"one", "two"}


def test_files_by_themselves_join_what_is_there(tmp_path: Path, placed: PlacedRegister) -> None:
    """With depth 0 each file is an entry: a directory that the engine has made is no obstacle."""
    layout = TreeLayout("inductor", entry_depth=0)
    (tmp_path / "other" / "ab").mkdir(parents=True)
    (tmp_path / "other" / "ab" / "own.so").write_text("own")
    contents = [Content("inductor", "ab/new.so", b"new"), Content("inductor", "ab/own.so", b"ours")]

    done = put(layout, contents, tmp_path / "other", placed, tmp_path)

    assert [path.name for path in done.written] == ["new.so"]
    assert (tmp_path / "other" / "ab" / "own.so").read_text() == "own"


def test_an_entry_arrives_with_its_mark_and_without_it_is_not_finished(tmp_path: Path, placed: PlacedRegister) -> None:
    """DeepGEMM takes an entry by an empty hidden file alone; the first H200 run compiled 41 kernels for want of it."""
    cache = tmp_path / "cache"
    for name in ("whole/kernel.cubin", "whole/.committed", "half/kernel.cubin"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).touch()
    layout = engine_kinds.DEEP_GEMM.layout

    contents = layout.collect(cache)
    put(layout, contents, tmp_path / "other", placed, tmp_path)

    assert [content.path for content in contents] == ["whole/kernel.cubin"]
    files = [path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*")]
    assert sorted(files) == ["whole", "whole/.committed", "whole/kernel.cubin"]


def test_a_result_that_is_written_again_is_seen(tmp_path: Path) -> None:
    """A compiler that finds an entry and does not take it leaves the same names."""
    written = filled(tmp_path / "cache") / "one" / "k.cubin"
    before = LAYOUT.results(tmp_path / "cache", ("*.cubin",))
    os.utime(written, ns=(0, before["one/k.cubin"] + 1))

    now = LAYOUT.results(tmp_path / "cache", ("*.cubin",))

    assert gained_since(before.items(), before) == frozenset()
    assert gained_since(before.items(), now) == {"one/k.cubin"}


def test_a_note_that_cannot_be_read_makes_an_entry_the_engines_own(tmp_path: Path, placed: PlacedRegister) -> None:
    """Nothing is removed on the word of a damaged register."""
    contents = LAYOUT.collect(filled(tmp_path / "cache"))
    put(LAYOUT, contents, tmp_path / "other", placed, tmp_path)
    for note in placed.directory.glob("*.json"):
        note.write_text("{")
    (tmp_path / "other" / "one" / "k.cubin").write_text("changed")

    done = put(LAYOUT, contents, tmp_path / "other", placed, tmp_path)

    assert done.written == ()
    assert (tmp_path / "other" / "one" / "k.cubin").read_text() == "changed"


def test_the_packages_table_has_every_kind_and_what_became_of_it() -> None:
    """One row each with the test in which it was moved, or the reason why it is left out."""
    rows = table_of_the_package()
    seen = {row.name: row.seen for row in (*engine_kinds.TREE_KINDS, engine_kinds.TRITON)}
    seen |= VLLM_ADAPTER.seen
    for kind, where in seen.items():
        row = rows.pop(kind)
        assert row.partition("where:")[0].rstrip().endswith(where), kind
        assert all(word in row for word in ("where:", "moves:", "equal", "hit:")), kind
    for left in LEFT_OUT:
        assert f"left out because {left.reason}" in rows.pop(left.name), left.name
    assert rows == {}


def table_of_the_package() -> dict[str, str]:
    """Rows of the docstring of `warmup/caches/` by name, each on one line."""
    text = (caches.__doc__ or "").partition("one row each.")[2]
    rows: dict[str, str] = {}
    for line in text.splitlines():
        beginning = re.match(r"    (\S[^:]*): (.*)", line)
        if beginning is not None:
            name = beginning[1]
            rows[name] = beginning[2]
        elif line.startswith("     "):
            rows[name] += f" {line.strip()}"
    return rows


def test_every_kind_is_one_row_with_a_reason() -> None:
    """Names are the manifest's, each once; what is left out says why."""
    names = [kind.name for kind in engine_kinds.TREE_KINDS]
    assert len(set(names)) == len(names)
    assert all(kind.seen and kind.results for kind in engine_kinds.TREE_KINDS)
    assert all(row.reason for row in LEFT_OUT)
    assert {kind.name for kind in engine_kinds.TREE_KINDS if not kind.is_code} == {"modelinfos"}
