"""The GPU benchmark without a GPU: a cold scenario begins with nothing, a warm one measures again, a hit keeps all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench import bench_gpu, bench_warmup
from tests.bench.bench_gpu import GpuBench

Seen = dict[str, tuple[bool, bool]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Scenario -> whether its run found compiled things and a node store; every run leaves both, and fails."""
    found: Seen = {}

    def run(command: list[str], *, env: dict[str, str], **options: Any) -> SimpleNamespace:
        report = Path(command[command.index("--report") + 1])
        name = report.stem.removeprefix("report-").rpartition("-")[0]
        places = Path(env["CUDA_CACHE_PATH"]), Path(env["RAY_WARMUP_CACHE_ROOT"])
        found[name] = places[0].exists(), places[1].exists()
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(returncode=1, stdout="", stderr="")

    monkeypatch.setattr(bench_gpu.subprocess, "run", run)
    return found


def test_what_an_earlier_benchmark_left_is_not_measured(seen: Seen, tmp_path: Path) -> None:
    """Twice with one scratch directory: cold is cold both times, warm has modules and no table, a hit has both."""
    for out in ("first", "second"):
        GpuBench(1, tmp_path / out, tmp_path / "scratch").run(None)
        assert seen.pop("fp8-leader-cold") == (False, False)
        assert seen.pop("fp8-leader-warm") == (True, False)
        assert seen.pop("fp8-hit") == (True, True)
        seen.clear()


def test_a_scenario_that_failed_is_run_again(seen: Seen, tmp_path: Path) -> None:
    """What succeeded is kept, and beside it stands one row of each scenario."""
    row = {"scenario": "bf16 leader cold", "gpus": 1, "exit": 0, "wall_s": 1.0}
    path = tmp_path / "bench_warmup_1gpu.json"
    path.write_text(json.dumps({"rows": [row, {**row, "scenario": "bf16 hit", "exit": 1}]}))
    failed = GpuBench(1, tmp_path, tmp_path / "scratch").run(["bf16 leader cold", "bf16 hit"])
    assert failed == ["bf16 hit"]
    assert list(seen) == ["bf16-hit"]
    assert [found["scenario"] for found in json.loads(path.read_text())["rows"]] == ["bf16 leader cold", "bf16 hit"]


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1)])
def test_a_failed_scenario_is_the_exit_code(
    code: int, ends: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark whose runs did not run is no success, and names them."""
    done = SimpleNamespace(returncode=code, stdout="", stderr="")
    monkeypatch.setattr(bench_gpu.subprocess, "run", lambda *_, **__: done)
    arguments = ["--backend", "cuda", "--out", str(tmp_path), "--scratch", str(tmp_path / "s"), "--only", "bf16 hit"]
    monkeypatch.setattr(bench_warmup.sys, "argv", ["bench_warmup.py", *arguments])
    assert bench_warmup.main() == ends
    assert ("FAILED: bf16 hit" in capsys.readouterr().out) == bool(ends)


@pytest.mark.parametrize(("ratio", "ends"), [(bench_warmup.LIMIT, 0), (bench_warmup.LIMIT + 0.01, 1)])
def test_a_missed_limit_is_the_exit_code(ratio: float, ends: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU it is the warm start over the imports alone."""
    monkeypatch.setattr(bench_warmup, "bench_cpu", lambda rounds: {"ratio": ratio})
    monkeypatch.setattr(bench_warmup.sys, "argv", ["bench_warmup.py"])
    assert bench_warmup.main() == ends
