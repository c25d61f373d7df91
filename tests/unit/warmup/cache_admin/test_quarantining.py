"""Quarantined tactics: equal ones once, seen by key, lifted by name; what cannot be read stays and is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ray_warmup.warmup.store.node_store import NodeStore
from tests.cache_requests import perform

KEYS = ("ab" * 32, "cd" * 32)
DEFAULT = {"op": "bf16_gemm", "runner": "Direct", "tactic": "-1"}
OTHER = {"op": "bf16_gemm", "runner": "Direct", "tactic": "[2, 3]"}
MOE = {"op": "fused_moe", "runner": "Moe", "tactic": "4"}


def store_in(root: Path, key: str = KEYS[0]) -> NodeStore:
    """A key's store, in which nothing need have been published."""
    return NodeStore(root / "flashinfer_autotune_cache" / "0.7.2" / "90a" / key)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two keys: three writers said the same of one."""
    for _ in range(3):
        store_in(tmp_path).save_quarantine([DEFAULT, OTHER])
    store_in(tmp_path, KEYS[1]).save_quarantine([MOE])
    return tmp_path


def rows(root: Path, command: str = "quarantine ls", **arguments: str) -> list[list[str]]:
    """The tactics of each store that the answer names."""
    answer = perform(command, {"root": str(root), **arguments})
    name = "rows" if command == "quarantine ls" else "lifted"
    return [sorted(row["tactic"] for row in store[name]) for store in answer["result"]]


def test_equal_rows_are_kept_once(root: Path) -> None:
    """Six times the same after one event: two files, and two rows."""
    assert len(list((store_in(root).directory / "quarantine").iterdir())) == 2
    assert rows(root) == [["-1", "[2, 3]"], ["4"]]
    assert rows(root, key="cd") == [["4"]]


@pytest.mark.parametrize(
    ("rule", "lifted", "left"),
    [
        ({}, [["-1", "[2, 3]"], ["4"]], []),
        ({"key": "ab"}, [["-1", "[2, 3]"]], [["4"]]),
        ({"tactic": "-1"}, [["-1"], []], [["[2, 3]"], ["4"]]),
        ({"op": "fused_moe", "runner": "Moe"}, [[], ["4"]], [["-1", "[2, 3]"]]),
        ({"op": "norm"}, [[], []], [["-1", "[2, 3]"], ["4"]]),
    ],
)
def test_what_is_lifted_may_run_again(
    root: Path, rule: dict[str, str], lifted: list[list[str]], left: list[list[str]]
) -> None:
    """All of it, or what key, op, runner and tactic name."""
    assert rows(root, "quarantine clear", **rule) == lifted
    assert rows(root) == left
    stay = sorted(row["tactic"] for row in store_in(root).load_quarantine() if row in (DEFAULT, OTHER))
    assert stay == [tactic for found in left for tactic in found if tactic != "4"]


def test_a_row_in_a_file_of_several_is_lifted_alone(tmp_path: Path) -> None:
    """Files of earlier versions have all of a writer's rows, and perhaps one that is nobody's tactic."""
    directory = store_in(tmp_path).directory / "quarantine"
    directory.mkdir(parents=True)
    path = directory / "writer.json"
    path.write_text(json.dumps({"schema_version": 1, "rows": [DEFAULT, OTHER, {"op": 3}]}))
    path.chmod(0o640)
    assert rows(tmp_path, "quarantine clear", tactic="-1") == [["-1"]]
    assert json.loads(path.read_text())["rows"] == [OTHER, {"op": 3}]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", ["{", '{"rows": 3}', '{"rows": [', "[]"])
def test_what_cannot_be_read_is_named_and_stays(root: Path, content: str) -> None:
    """Nothing is destroyed that nobody understood; the others are lifted all the same, and the command fails."""
    broken = store_in(root).directory / "quarantine" / "broken.json"
    broken.write_text(content)
    for command in ("quarantine ls", "quarantine clear"):
        answer = perform(command, {"root": str(root)})
        assert not answer["ok"]
        assert [problem for store in answer["result"] for problem in store["problems"] if "broken.json" in problem]
    assert broken.read_text() == content
    assert rows(root) == [[]]


@pytest.mark.parametrize("command", ["quarantine ls", "quarantine clear"])
def test_a_directory_that_cannot_be_listed_is_not_empty(root: Path, command: str) -> None:
    """A file in the directory's place: named, and the other key is answered."""
    directory = store_in(root).directory / "quarantine"
    shutil.rmtree(directory)
    directory.write_text("")
    answer = perform(command, {"root": str(root)})
    problems = [problem for store in answer["result"] for problem in store["problems"]]
    assert [problem for problem in problems if str(directory) in problem and "Not a directory" in problem] == problems
    assert len(problems) == 1
    assert len(answer["result"]) == 2


def test_a_node_without_a_cache_has_nothing(tmp_path: Path) -> None:
    """No error: nothing is quarantined there."""
    for command in ("quarantine ls", "quarantine clear"):
        assert perform(command, {"root": str(tmp_path)}) | {"where": ""} == {
            "command": command,
            "ok": True,
            "result": [],
            "where": "",
        }
