"""What an attempt leaves on its node for the next one: finished tasks and quarantined tactics, by class."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.warmup.engines.tuning.unfinished import Unfinished
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.run_files import RunFiles
from ray_warmup.warmup.tasks import TacticId, TaskResult
from tests.unit.warmup.engines.tuning import scripted
from tests.unit.warmup.engines.tuning.scripted import OP, TASKS

BANNED = TacticId(OP, "Runner", "7")


def result(task: str) -> TaskResult:
    """A tuned task with a key of FlashInfer's form."""
    return replace(scripted.result(task), keys={"Runner": f"('{OP}', 'Runner', (({task[-1]}, 32), (16, 32)), ())"})


def test_the_next_attempt_finds_what_was_finished_and_banned(tmp_path: Path) -> None:
    """Of its own class alone."""
    first = Unfinished(tmp_path)
    for task in TASKS[:2]:
        first.keep("a class", result(task))
    first.ban("a class", (BANNED,))

    found = Unfinished(tmp_path).earlier("a class")
    assert [row.task_id for row in found.results] == list(TASKS[:2])
    assert found.quarantine == (BANNED,)
    assert found.warnings == ()
    assert Unfinished(tmp_path).earlier("another class").results == ()


def test_a_resumed_attempt_keeps_the_rows_of_the_one_before(tmp_path: Path) -> None:
    """A third attempt has the tasks of both."""
    Unfinished(tmp_path).keep("a class", result(TASKS[0]))
    second = Unfinished(tmp_path)
    second.earlier("a class")
    second.keep("a class", result(TASKS[1]))
    # Files of one moment have no order.
    assert {row.task_id for row in Unfinished(tmp_path).earlier("a class").results} == set(TASKS[:2])


def test_what_is_published_is_forgotten_and_a_ban_stays(tmp_path: Path) -> None:
    """The artifact has the rows. A tactic that kills does so again."""
    made = Unfinished(tmp_path)
    made.keep("a class", result(TASKS[0]))
    made.ban("a class", (BANNED,))
    made.forget_results("a class")
    found = Unfinished(tmp_path).earlier("a class")
    assert (found.results, found.quarantine) == ((), (BANNED,))


def test_a_file_that_cannot_be_written_costs_resuming_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tuning goes on, and the log says what to do."""

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(RunFiles, "save_partial", refuse)
    monkeypatch.setattr(RunFiles, "save_quarantine", refuse)
    made = Unfinished(tmp_path)
    with caplog.at_level(logging.WARNING):
        made.keep("a class", result(TASKS[0]))
        made.ban("a class", (BANNED,))
    assert caplog.text.count("the disk is full -> make the cache root writable") == 2
    assert made.earlier("a class").results == ()
