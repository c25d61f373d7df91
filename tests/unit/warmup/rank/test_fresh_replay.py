"""The process that only loads and replays a table: real AutoTuner, its failures named, its compute cache its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.errors import LoadError
from ray_warmup.warmup.messages.replays import FreshReplay
from ray_warmup.warmup.rank.fresh_replay import OWNER, PREFIX, FreshProcess
from ray_warmup.warmup.store.leases import process_identity
from tests.artifacts import ROOT
from tests.models import TINY

CONFIG = {
    "model": {"name": "qwen3-0.6b", "dtype": "float32"},
    "autotune": {"max_num_batched_tokens": 4, "buckets": [4], "families": ["gemm"]},
    "cluster": {"backend": "cpu", "ranks_per_node": 1},
}
FACTORY = "ray_warmup.warmup.device.flashinfer_tuner:FlashInferTuner"
CHEAP = "json:JSONDecoder"
"""A child that imports it is soon there; for what ends before a tuner is made."""
DRIVER = "import os; os.makedirs(os.environ['CUDA_CACHE_PATH'])"
ENGINE = {"enabled": True, "top_k_widths": [2], "logprob_widths": [1]}
TUNE = """
import json, sys
from pathlib import Path
from ray_warmup.configs import parse_config
from ray_warmup.configs.model import load_model
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.rank.rank_workloads import rank_workloads
from ray_warmup.warmup.tasks import tasks_of
config = parse_config(json.loads(sys.argv[1]))
tuner = FlashInferTuner("cpu")
workloads = rank_workloads(config, load_model(config.model.name), 0, "cpu")
tuner.prepare(workloads)
Path(sys.argv[2]).write_bytes(tuner.table([tuner.tune(tasks_of(workloads)[0])], []))
"""


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which FlashInfer can be imported."""
    base = str(tmp_path_factory.mktemp("workspace"))
    quiet = {"TQDM_DISABLE": "1", "FLASHINFER_LOGGING_LEVEL": "WARNING", "FLASHINFER_WORKSPACE_BASE": base}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "2"}


def request(**changes: Any) -> FreshReplay:
    """A request for rank 0 on CPU."""
    asked = {"config": CONFIG, "rank": 0, "backend": "cpu", "factory": FACTORY, "engine": False, **changes}
    return FreshReplay(**{**asked, "config": json.dumps(asked["config"])})


def test_a_process_of_its_own_replays_and_warms(tmp_path: Path, environ: dict[str, str]) -> None:
    """A table that another process tuned is loaded and every task runs once, then the engine warmups, unchecked."""
    program, file, model = tmp_path / "tune.py", tmp_path / "table.json", tmp_path / "config.json"
    program.write_text(TUNE)
    model.write_text(json.dumps(TINY))
    config = {**CONFIG, "model": {"name": str(model), "dtype": "float32"}, "engine": ENGINE}
    command = [sys.executable, str(program), json.dumps(config), str(file)]
    done = subprocess.run(
        command, env={**environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with FreshProcess(FACTORY, environ) as fresh:
        answer = fresh.replay(request(config=config, engine=True), file.read_bytes(), 120)
    assert (answer.entries, answer.replayed.failed) == (1, ())
    assert answer.replayed.calls >= 4
    assert (answer.modules, answer.triton_entries) == ((), ())
    assert answer.engine is not None
    warmed = {one.name for one in answer.engine.report.outcomes if one.state == "done"}
    assert warmed == {"prefill_decode", "serving_shapes", "sampler_features"}
    assert answer.engine.report.verification is None


def test_a_failure_of_the_child_is_named(environ: dict[str, str]) -> None:
    """What the child could not do arrives as a LoadError with its reason."""
    with (
        FreshProcess(CHEAP, environ) as fresh,
        pytest.raises(LoadError, match=r"failed with 1: ConfigError: cluster"),
    ):
        fresh.replay(request(config={"cluster": {}}), b"{}", 60)


def test_a_driver_that_makes_its_cache_while_the_child_waits_is_in_nobodys_way(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """CUDA's driver makes its cache directory when a process loads it, here before there is a request."""
    (tmp_path / "driver.py").write_text(DRIVER)
    with FreshProcess("driver:Tuner", {**environ, "PYTHONPATH": str(tmp_path)}) as fresh:
        deadline = time.monotonic() + 60
        while not fresh.compute_cache.is_dir():
            assert time.monotonic() < deadline, "the child did not import its tuner"
            time.sleep(0.05)
        with pytest.raises(LoadError, match=r"failed with 1: ConfigError: cluster"):
            fresh.replay(request(config={"cluster": {}}), b"{}", 60)


def test_a_child_that_ends_without_an_answer_is_a_named_failure(tmp_path: Path, environ: dict[str, str]) -> None:
    """Exit code 0 with nothing, or with something else than an answer, on its output costs the kernels only."""
    for said in ("", "a library's last words"):
        (tmp_path / "silent.py").write_text(f"import os; os.write(1, {said.encode()!r}); os._exit(0)")
        with (
            FreshProcess("silent:Tuner", {**environ, "PYTHONPATH": str(tmp_path)}) as fresh,
            pytest.raises(LoadError, match="ended without an answer"),
        ):
            fresh.replay(request(), b"{}", 60)


def test_a_replay_that_takes_too_long_is_ended(environ: dict[str, str]) -> None:
    """The deadline is kept, and the error says how long it was; nothing is left behind."""
    with FreshProcess(CHEAP, environ) as fresh:
        with pytest.raises(LoadError, match="longer than 0 s"):
            fresh.replay(request(), b"{}", 0.05)
        assert fresh.is_alive
        scratch = fresh.compute_cache.parent
        assert scratch.is_dir()
    assert not fresh.is_alive
    assert not scratch.exists()


def test_what_killed_processes_left_is_removed_by_the_next(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory whose owner is dead goes; one of a live owner, and one that does not say yet, stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = process_identity(os.getpid())
    for name, owner in (("dead", {**mine, "pid": 2**22 + 1}), ("alive", mine), ("new", None)):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        if owner is not None:
            (tmp_path / f"{PREFIX}{name}" / OWNER).write_text(json.dumps(owner))
    with FreshProcess(CHEAP, environ) as fresh:
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{PREFIX}alive", f"{PREFIX}new", fresh.compute_cache.parent.name}


def test_a_child_that_nobody_needs_ends(tmp_path: Path, environ: dict[str, str]) -> None:
    """It waits, its imports done, and ends with its parent: its request is then at an end before it began.

    Neither leaves a file behind.
    """
    modules, scratch = tmp_path / "modules", tmp_path / "scratch"
    modules.mkdir()
    scratch.mkdir()
    (modules / "driver.py").write_text(DRIVER)
    parent = "import sys, os; from ray_warmup.warmup.rank.fresh_replay import FreshProcess; " + (
        "fresh = FreshProcess(sys.argv[1], os.environ); print(fresh._child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, "driver:Tuner"],
        env={**environ, "PYTHONPATH": f"{ROOT}:{modules}", "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -9
    child = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 60
    while child.exists() and "State:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.1)
    assert list(scratch.iterdir()) == []
