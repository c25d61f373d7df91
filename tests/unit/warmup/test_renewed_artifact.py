"""What is compiled besides modules, on a hit: put back where it is gone, collected anew where settings ask for more."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from configs import parse_config
from tests.fakes import ScriptedTuner
from warmup.rank import compiled_work
from warmup.rank.process import RankProcess
from warmup.ranks import RankInfo

Maker = Callable[..., RankProcess]


class FreshProcess:
    """Stands in for `warmup.fresh_replay.FreshProcess`, which needs a GPU to compile: writes what is compiled there."""

    is_alive = True
    replays = 0

    def __init__(self, factory: str, environ: Mapping[str, str]) -> None:
        self.compute_cache = Path(environ["CUDA_CACHE_PATH"]).with_name("of-the-replay")

    def replay(self, request: Mapping[str, Any], table: bytes, timeout_s: float) -> dict[str, Any]:
        """One kernel of Triton's, one of the driver's, for the widths that the configuration asks for."""
        FreshProcess.replays += 1
        width = request["config"]["engine"]["top_k_widths"][0]
        entry = Path(request["triton_cache"], f"ENTRY{width}")
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "k.cubin").write_bytes(b"cubin %d" % width)
        (entry / "__grp__k.json").write_text(json.dumps({"child_paths": {"k.cubin": str(entry / "k.cubin")}}))
        (self.compute_cache / "0").mkdir(parents=True, exist_ok=True)
        (self.compute_cache / "0" / f"kernel{width}").write_bytes(b"kernel")
        return {"modules": [], "triton_entries": [entry.name], "engine": None}

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.compute_cache)


@pytest.fixture
def make_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """`make_rank(rank, **engine)`: a probed rank of a node with a GPU's driver and cache directories of its own."""
    monkeypatch.setattr(compiled_work, "FreshProcess", FreshProcess)
    monkeypatch.setattr(FreshProcess, "replays", 0)

    def make(rank: int, **engine: Any) -> RankProcess:
        node = tmp_path / f"node{rank}"
        for name, directory in (("TRITON_CACHE_DIR", "triton"), ("CUDA_CACHE_PATH", "nv")):
            monkeypatch.setenv(name, str(node / directory))
        monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(node / "workspace"))
        config = parse_config(
            {
                "cluster": {"world_size": 2, "gpus_per_rank": 0},
                "model": {"name": "qwen3-0.6b"},
                "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": 2},
                "cache": {"root": str(node / "root")},
                "engine": {"enabled": True, **engine},
            }
        )
        info = RankInfo(rank, 2, 0, 1, rank, f"node{rank}", rank, (), "127.0.0.1", os.getpid())
        tuner = ScriptedTuner({"parts": {"driver": "580.1"}})
        process = RankProcess(info, config, "cpu", lambda backend, options: tuner, factory="tests.fakes:unused")
        process.described = process.probe()  # type: ignore[attr-defined]
        return process

    return make


def packed(process: RankProcess) -> dict[str, Any]:
    """Everything measured and packed."""
    tasks = process.described["tasks"]  # type: ignore[attr-defined]
    return process.pack([process.tune(task["task_id"]) for task in tasks], [], "leader", False)


def install(process: RankProcess, header: dict[str, Any], source: RankProcess) -> dict[str, Any]:
    """What the coordinator does between the two, for the blobs that this node lacks."""
    digests = process.wanted("install", header, [row["sha256"] for row in header["blobs"]])
    answer = process.install(header, {digest: source.blob(digest) for digest in digests})
    assert (answer["degraded"], answer["warnings"]) == (None, [])
    return answer


def compiled_on(tmp_path: Path, node: int) -> set[str]:
    """Entries of Triton's cache and kernels of the driver's on a node."""
    found = [*tmp_path.glob(f"node{node}/triton/*/k.cubin"), *tmp_path.glob(f"node{node}/nv/0/*")]
    return {path.parent.name if path.name == "k.cubin" else path.name for path in found}


def test_a_hit_puts_back_what_a_node_has_lost(make_rank: Maker, tmp_path: Path) -> None:
    """With every module in place and the table found, the survey restores Triton's entries and the driver's kernels."""
    builder, joiner = make_rank(0), make_rank(1)
    install(joiner, packed(builder), builder)
    assert compiled_on(tmp_path, 1) == {"ENTRY1", "kernel1"}
    for cache in ("triton", "nv"):
        shutil.rmtree(tmp_path / "node1" / cache)
    later = make_rank(1)
    found = later.lookup("run-00001", retune=False)
    assert (found["hit"], found["covers"]) == (True, True)
    assert later.survey()["missing"] == []
    assert compiled_on(tmp_path, 1) == {"ENTRY1", "kernel1"}


def test_other_engine_settings_are_collected_once_and_shipped(make_rank: Maker, tmp_path: Path) -> None:
    """A hit whose artifact was made for other settings says so; renewed, it brings both nodes what those compile."""
    builder = make_rank(0)
    install(builder, packed(builder), builder)
    later, other = make_rank(0, top_k_widths=[64]), make_rank(1, top_k_widths=[64])
    found = later.lookup("run-00002", retune=False)
    assert (found["hit"], found["covers"]) == (True, False)
    renewed = later.pack_stored(renew=True)
    assert (renewed["digest"], renewed["warnings"]) == (found["header"]["digest"], [])
    assert renewed["artifact"] != found["header"]["artifact"]
    install(later, renewed, later)
    install(other, renewed, later)
    assert compiled_on(tmp_path, 1) == {"ENTRY64", "kernel64"}
    again = make_rank(0, top_k_widths=[64]).lookup("run-00003", retune=False)
    assert (again["covers"], again["results"]) == (True, found["results"])
    assert FreshProcess.replays == 2


@pytest.mark.parametrize("engine", [{"enabled": False}, {"verify_requests": 1, "monitor": "raise"}])
def test_settings_that_compile_nothing_more_need_no_collecting(make_rank: Maker, engine: dict[str, Any]) -> None:
    """An artifact that was made with the engine's warmups serves a run without them, or with other checks."""
    builder = make_rank(0)
    install(builder, packed(builder), builder)
    assert make_rank(0, **engine).lookup("run-00004", retune=False)["covers"] is True


def test_an_artifact_of_the_table_alone_does_not_serve_an_engine(make_rank: Maker) -> None:
    """Made without the engine's warmups, it lacks what they compile."""
    builder = make_rank(0, enabled=False)
    install(builder, packed(builder), builder)
    assert make_rank(0).lookup("run-00005", retune=False)["covers"] is False
