"""Recorded requests and lookups as people and machines read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.scripts.terminal.console import wide_console
from ray_warmup.scripts.views.own_calls import proof_line, requests_json, show_kept_requests
from ray_warmup.warmup.artifact.artifact import Content, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED
from ray_warmup.warmup.engines.tuning.engine_table import requests_of
from ray_warmup.warmup.messages.recorded import TableProof
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.workloads.recorded_request import (
    RecordedInput,
    RecordedRequest,
    RecordedRunner,
    recording_of,
)


def request(op: str, reason: str = "") -> RecordedRequest:
    """A request of one GEMM."""
    a = RecordedInput("tensor", "bfloat16", (8, 32), (32, 1), (0,))
    weight = RecordedInput("tensor", "bfloat16", (16, 32), (32, 1))
    runners = (RecordedRunner("FirstRunner", "()"), RecordedRunner("SecondRunner", "()"))
    return RecordedRequest(op, runners, (a, weight), (), (), 8, (1, 2, 4, 8), "bfloat16", False, reason)


def test_the_function_is_shown_by_which_others_make_a_request_again() -> None:
    """For machines, with the reason for each other one."""
    shared = RecordedRequest(
        op="cpu_gemm",
        runners=(RecordedRunner("DirectGemmRunner", "()"),),
        inputs=request("gemm").inputs,
        config=(),
        scalars=(),
        tokens=8,
        buckets=(1, 8),
        dtype="float32",
        exact_sizes=False,
    )
    first, second = requests_json([shared, request("talk", "TalkRunner communicates")])
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    made = "ray_warmup.warmup.workloads.cpu_gemm_op.cpu_gemm"
    assert (first["made_again_by"], first["stays_because"]) == (made, "")
    assert (second["made_again_by"], second["stays_because"]) == ("", "TalkRunner communicates")


def test_requests_of_all_classes_are_listed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two classes that share a request; what keeps its default says why."""
    shared, own = request("gemm"), request("talk", "TalkRunner communicates")
    contents = [
        Content("recorded_requests", f"{number}.json", recording_of(members).to_bytes())
        for number, members in enumerate([(shared,), (shared, own)])
    ]
    made = pack(
        contents,
        key={"engine": "vllm"},
        key_sha256="0" * 64,
        fingerprint={},
        created_at=1.0,
        strategy="recorded",
        guard=UNGUARDED,
    )
    NodeStore(tmp_path / "store").publish(made)

    show_kept_requests(wide_console(), [str(tmp_path / "store"), str(tmp_path / "absent")])
    shown = capsys.readouterr().out

    assert [row["op"] for row in requests_json(requests_of(made)) if isinstance(row, dict)] == ["gemm", "talk"]
    assert "*x32 16x32" in shown
    assert "FirstRunner, SecondRunner" in shown
    assert "TalkRunner communicates" in shown
    assert shown.count("FirstRunner") == 2
    assert "no: no recipe is known for gemm" in " ".join(shown.split())
    assert f"{tmp_path / 'absent'}: " in shown


def test_a_proof_is_one_line() -> None:
    """Hits of the table, and of the engine's own lookups."""
    proof = TableProof("ab", 5, 12, (), 5, (), ())
    assert proof_line(3, proof) == (
        "rank 3: 5 of 5 entries of its table hit, 12 lookups of the engine's own hit, 0 missed"
    )
    beyond = replace(proof, beyond=4)
    assert proof_line(3, beyond).endswith(" missed, 4 with more tokens than its tuning reaches")
