"""An engine's start in an actor: the start module of every engine is called as a child process calls it."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from ray_warmup.actors.processes.ray_starter import EngineHost
from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch
from ray_warmup.warmup.engines.front_end.trial_start import TrialStart
from ray_warmup.warmup.engines.known_engines import ADAPTERS

NAME = "a_start_module_of_this_test"


@pytest.mark.parametrize("kind", sorted(ADAPTERS))
def test_every_engines_start_takes_one_trial_start(kind: str) -> None:
    """The actor finds the function by its name alone, so no type checker sees the call."""
    run = importlib.import_module(ADAPTERS[kind].start_module).run
    (parameter,) = inspect.signature(run, eval_str=True).parameters.values()
    assert parameter.annotation is TrialStart


def answering(trial: TrialStart) -> None:
    """An engine that answers at once."""
    batches = [TrialBatch(rows=1, prompt_tokens=3, sampling={})]
    trial.answer_and_stay(time.monotonic(), time.monotonic(), batches, lambda batch: [[1] for _ in batch.lengths])


def failing(trial: TrialStart) -> None:
    """An engine that does not start."""
    raise RuntimeError(f"no memory for {trial.request.arguments}")


def started(start: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a start as the actor does, without Ray."""
    module = ModuleType(NAME)
    module.run = start  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, NAME, module)
    (folder / "told").mkdir()
    request = folder / "request.json"
    given = {"arguments": {"model": "m"}, "load_format": "dummy", "options": {}, "stays_until": None}
    request.write_text(json.dumps(given))
    host = object.__new__(EngineHost)  # its constructor redirects this process's output
    return host.run(NAME, str(request), str(folder / "result.json"))


def test_a_start_in_an_actor_answers_and_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a child process does."""
    assert started(answering, tmp_path, monkeypatch) == 0
    assert json.loads((tmp_path / "result.json").read_text())["requests"] == 1


def test_a_start_that_fails_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher shows the last lines."""
    assert started(failing, tmp_path, monkeypatch) == 1
    assert "no memory for" in capsys.readouterr().err
