"""Notes of proofs beside an artifact: valid for one artifact, engine, device and driver, and gone when refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.warmup.engines.artifacts.proof_record import (
    PROOF,
    ProofRecord,
    load_proof,
    refusal_of,
    refuse,
    save_proof,
)

RECORD = ProofRecord("a" * 64, "vllm 0.33.0", "H100", "580.1", 13.5, 0.04, 1e9)
ASKED = {"artifact": "a" * 64, "engine": "vllm 0.33.0", "device": "H100", "driver": "580.1"}


def test_a_proof_is_kept_and_read_again(tmp_path: Path) -> None:
    """What was saved is what is loaded; nothing is loaded from damaged bytes."""
    assert load_proof(tmp_path) is None
    save_proof(tmp_path, RECORD)
    assert load_proof(tmp_path) == RECORD
    (tmp_path / PROOF).write_text('{"artifact": 1}')
    assert load_proof(tmp_path) is None


@pytest.mark.parametrize("field", ["artifact", "engine", "device", "driver"])
def test_a_proof_holds_for_exactly_what_was_proven(field: str) -> None:
    """Another artifact, engine, device or driver has to be proven again."""
    assert RECORD.is_valid_for(**ASKED)
    assert not replace(RECORD, **{field: "another"}).is_valid_for(**ASKED)


def test_a_refusal_is_of_one_artifact_and_ends_its_proof(tmp_path: Path) -> None:
    """A newer artifact in the same store is not refused, and a proof that holds lifts the refusal."""
    save_proof(tmp_path, RECORD)
    refuse(tmp_path, RECORD.artifact, "the engine crashed")
    assert load_proof(tmp_path) is None
    assert refusal_of(tmp_path, RECORD.artifact) == "the engine crashed"
    assert refusal_of(tmp_path, "b" * 64) == ""
    save_proof(tmp_path, RECORD)
    assert refusal_of(tmp_path, RECORD.artifact) == ""
