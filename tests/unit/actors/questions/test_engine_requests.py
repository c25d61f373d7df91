"""What is asked about a request of a real engine: how nodes stand, what is waited for, what a run would do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.questions import engine_requests, planning
from ray_warmup.actors.questions.engine_requests import exit_code_of
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import load_request
from ray_warmup.configs.schema import CacheSection
from ray_warmup.scripts.cli import app
from ray_warmup.scripts.commands import engine_answers
from ray_warmup.warmup.engines.artifacts import proof_record, request_index
from ray_warmup.warmup.engines.artifacts.admission import admit
from ray_warmup.warmup.engines.artifacts.engine_store import OFFERED
from ray_warmup.warmup.engines.artifacts.proof_record import ProofRecord
from ray_warmup.warmup.engines.artifacts.request_digest import device_here, digest_of
from ray_warmup.warmup.engines.artifacts.request_index import RequestRow
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.node import request_status
from ray_warmup.warmup.engines.node.prediction import Prediction
from ray_warmup.warmup.engines.node.request_status import EngineStanding
from ray_warmup.warmup.signing.keys import new_key, write_pair
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.workloads.recorded_request import RecordedInput, RecordedRequest, RecordedRunner
from tests.engines import recorded


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of an engine that is installed here."""
    monkeypatch.setattr(request_status, "installed_version", lambda adapter: recorded.VERSION)
    document = {
        "cluster": {"world_size": 1, "backend": "cpu"},
        "engine": {"kind": "vllm", "args": {"model": "m", "max-num-seqs": 4, "hf_token": "hf_planted"}},
        "cache": {"root": str(tmp_path / "root")},
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(document))
    return path


def noted(config: Path, tmp_path: Path) -> NodeStore:
    """A node that holds an artifact of the request."""
    store = recorded.stored(tmp_path / "root", size="4")
    request = load_request(config)
    assert isinstance(request, EngineRunConfig)
    row = RequestRow("vllm", recorded.VERSION, store.directory.name)
    request_index.note(tmp_path / "root", digest_of(request.engine, recorded.VERSION, device_here()), row)
    return store


def run(*words: Any) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


def test_a_request_is_waited_for_until_its_artifact_is_proven(config: Path, tmp_path: Path) -> None:
    """Absent, then whole and unproven, then proven; a proof that did not hold ends the wait."""
    wait = ("wait", "--timeout", 0, "--config", config)
    assert run(*wait)[0] == 124
    assert run("path", "--config", config)[0] == 1
    store = noted(config, tmp_path)
    digest = store.current()[1].digest
    assert "recorded, and not proven on this node" in run(*wait)[1]
    assert run("path", "--config", config) == (0, f"{store.directory}\n")
    assert run("path", "--check", "--config", config)[0] == 1

    proof = ProofRecord(digest, f"vllm {recorded.VERSION}", device_here(), "", 14.9, 0.04, 1.0)
    proof_record.save_proof(store.directory, proof)
    assert run(*wait)[0] == 0
    assert run("path", "--check", "--config", config)[0] == 0
    assert "proven: engine 14.9 s, first answer 0.04 s" in run("status", "--config", config)[1]

    proof_record.refuse(store.directory, digest, "deep_gemm: 1 compiled")
    code, said = run(*wait)
    assert code == 1
    assert "the last proof did not hold: deep_gemm: 1 compiled" in said


@pytest.mark.parametrize("proof", ["node", "off"])
def test_what_a_serving_engine_left_is_waited_for_until_it_is_proven(config: Path, tmp_path: Path, proof: str) -> None:
    """No engine is given it before, whatever `engine.proof` says. Afterwards everybody is told what it lacks."""
    store = noted(config, tmp_path)
    store.publish(recorded.artifact(created_at=9.0, strategy=OFFERED, size="4"))
    wait = ("wait", "--timeout", 0, "--config", config, "--set", f"engine.proof={proof}")
    code, said = run(*wait)
    assert code == 124
    assert "left there, and no proof start has used it yet" in said

    digest = store.current()[1].digest
    made = ProofRecord(digest, f"vllm {recorded.VERSION}", device_here(), "", 14.9, 0.04, 1.0)
    proof_record.save_proof(store.directory, made)
    assert run(*wait)[0] == 0
    assert "calls of its own to FlashInfer are not tuned" in " ".join(run("status", "--config", config)[1].split())


def test_what_is_not_signed_is_not_waited_for_in_vain(config: Path, tmp_path: Path) -> None:
    """It is proven, and no engine would get it: `wait` and `status` say why."""
    store = noted(config, tmp_path)
    admit(store.directory, store.current()[1].digest, "cache import")
    wait = ("wait", "--timeout", 0, "--config", config)
    assert run(*wait)[0] == 0
    write_pair(new_key(), tmp_path / "k.key", tmp_path / "k.pub")
    settings = ("--set", "cache.trust=signed", "--set", f"cache.public_keys=['{tmp_path / 'k.pub'}']")
    code, said = run(*wait, *settings)
    believe(CacheSection())
    assert code == 124
    assert "the artifact has no signature, and cache.trust is signed" in said


def test_an_imported_artifact_is_believed(config: Path, tmp_path: Path) -> None:
    """An operator's word stands for the proof of the very artifact that was imported."""
    store = noted(config, tmp_path)
    admit(store.directory, store.current()[1].digest, "cache import")
    assert run("wait", "--timeout", 0, "--config", config)[0] == 0
    store.publish(recorded.artifact(created_at=9.0, size="4"))
    assert run("wait", "--timeout", 0, "--config", config)[0] == 124


def test_a_store_that_others_may_write_is_not_waited_for(config: Path, tmp_path: Path) -> None:
    """It could never be served, so the wait ends at once with the reason."""
    store = noted(config, tmp_path)
    store.directory.chmod(0o777)
    code, said = run("wait", "--timeout", 0, "--config", config)
    assert (code, "is not believed" in said) == (1, True)


def standing_in(state: Any) -> EngineStanding:
    """A node that stands so."""
    return EngineStanding(state, state)


@pytest.mark.parametrize(
    ("states", "proof", "accept", "code"),
    [
        (["ready", "ready"], "node", "table", 0),
        (["ready", "absent"], "node", "table", None),
        (["ready", "failed", "absent"], "node", "table", 1),
        (["ready", "unproven"], "node", "table", None),
        (["ready", "unproven"], "class", "table", 0),
        (["ready", "unproven"], "class", "verdict", None),
        ([], "off", "table", None),
    ],
)
def test_exit_codes_for_several_nodes(states: list[str], proof: str, accept: Any, code: int | None) -> None:
    """All must be ready, one failure is enough."""
    assert exit_code_of([standing_in(state) for state in states], proof=proof, accept=accept) == code


def test_a_plan_says_what_would_happen_and_why(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hit, a miss in the engine's words, the arguments of the class, and a node whose model differs."""
    resolved = Resolved(
        "0.33.0", recorded.parts(size="4"), {}, (("config.json", "11"),), ('model="m"', "max_num_seqs=4"), ("seed=3",)
    )
    other = Resolved("0.33.0", recorded.parts(size="4"), {}, (("config.json", "22"),))
    gemm = RecordedInput("tensor", "bfloat16", (8, 32), (32, 1), (0,))
    asked = RecordedRequest("bmm_fp8", (RecordedRunner("CublasRunner", "()"),), (gemm,), (), (), 8, (1, 8), "b", False)
    answers = {
        "node a": Prediction(resolved, "/store", hit=True, kinds=(("deep_gemm", 41),), requests=(asked,)),
        "node b": Prediction(resolved, "/store", reason="max_num_seqs 256, recorded 1024"),
        "node c": Prediction(other, "/store", hit=True, lack="it is not tuned"),
    }
    request = load_request(config)
    assert isinstance(request, EngineRunConfig)
    monkeypatch.setattr(engine_requests, "predict", lambda config: (dict(answers), []))
    monkeypatch.setattr("ray_warmup.actors.connection.of_runs.connected", lambda config: pytest.MonkeyPatch.context())
    code = engine_answers.plan_engine_and_show(request, as_json=False)
    said = capsys.readouterr()

    assert code == 1
    assert "node a: would place deep_gemm 41 from /store" in said.out
    assert "asked of FlashInfer, as recorded in /store:" in said.out
    assert said.out.count("CublasRunner") == 1
    assert "node b: miss: max_num_seqs 256, recorded 1024" in said.out
    assert "node c: it is not tuned" in said.out
    assert 'enter the class: model="m", max_num_seqs=4' in said.out
    assert "change nothing here: seed=3" in said.out
    for feature in ("pipeline parallelism", "data parallel", "expert", "LoRA", "speculative", "multimodal"):
        assert feature in said.out
    assert "config.json differs on node c (22) from the other nodes (11)" in said.err
    assert "hf_planted" not in said.out + said.err

    assert engine_answers.plan_engine_and_show(request, as_json=True) == 1
    (row,) = json.loads(capsys.readouterr().out)["nodes"]["node a"]["requests"]
    assert (row["op"], row["buckets"]) == ("bmm_fp8", [1, 8])

    answers["node a"] = answers["node c"] = answers["node b"]
    assert engine_answers.plan_engine_and_show(request, as_json=False) == 0
    recorded_kinds = capsys.readouterr().out.partition("carried of what it fills: ")[2].splitlines()[0].split(", ")
    assert {"autotune_configs", "torch_compile", "triton_cache", "modelinfos"} <= set(recorded_kinds)

    answers["node a"] = Prediction(error="engine.args: vllm refuses them", is_request=True)
    assert engine_answers.plan_engine_and_show(request, as_json=True) == 2
    assert json.loads(capsys.readouterr().out)["nodes"]["node a"]["is_request"] is True


@pytest.mark.parametrize(("world_size", "refused"), [(2, False), (4, True)])
def test_a_plan_names_a_replica_that_would_lie_on_several_nodes(
    monkeypatch: pytest.MonkeyPatch, world_size: int, refused: bool
) -> None:
    """Ranks that are counted over the cluster go where they fit: three a node divide the second replica of two."""
    monkeypatch.setattr(planning.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a" * 56))
    document = {
        "cluster": {"world_size": world_size, "backend": "cpu", "cpus_per_rank": 1},
        "engine": {"kind": "vllm", "args": {"model": "m", "tensor_parallel_size": 2}},
    }
    nodes = [Node(name * 56, f"10.0.0.{name}", {"CPU": 3.0}, {"CPU": 3.0}) for name in ("a", "b")]

    said = engine_requests.spread_in_words(EngineRunConfig.model_validate(document), nodes)

    told = "ranks 2, 3 of one replica are on 2 nodes (aaaaaaaa, bbbbbbbb), which is not covered yet"
    assert (told in said) is refused
    assert bool(said) is refused


def test_an_override_replaces_an_argument_however_it_is_spelled(config: Path) -> None:
    """The file says `max-num-seqs`, the command line `max_num_seqs`."""
    request = load_request(config, ["engine.args.max_num_seqs=8"])
    assert isinstance(request, EngineRunConfig)
    assert request.engine.args["max_num_seqs"] == 8


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("cache", "verify", "--retime", 1), "a real engine's artifact has no tactics"),
        (("cache", "explain", "--rank", 0), "ranks of a real engine share one artifact"),
        (("env",), "this command is about the built-in engine alone"),
    ],
)
def test_what_only_tables_have_is_refused(config: Path, words: tuple[Any, ...], complaint: str) -> None:
    """By name, with exit code 2."""
    code, said = run(*words, "--config", config)
    assert (code, complaint in said) == (2, True), said
