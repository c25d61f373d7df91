"""The report: `ready` is computed, JSON comes and goes, the committed schema is the current one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.report import ClassReport, FileReport, GuardReport, RankReport, WarmupReport, schema
from ray_warmup.warmup.tasks import Skip

SCHEMA = Path(__file__).resolve().parents[3] / "warmup" / "schemas" / "report.schema.json"


def make_rank(rank: int, **changes: Any) -> RankReport:
    """A ready rank with digest `d`."""
    values = {"local_rank": rank % 2, "node_rank": rank // 2, "node_id": f"n{rank // 2}", "role": "follower"}
    return RankReport(**{"rank": rank, "state": "ready", "digest": "d", **values, **changes})


def make_class(ranks: tuple[int, ...], **changes: Any) -> ClassReport:
    """A class of these ranks."""
    counts = {"tasks": 1, "measured": 1, "reused": 0, "kept": 1, "dropped": 0}
    values = {
        "key": "k",
        "parts": {"gpu": "H200"},
        "leader": ranks[0],
        "digest": "d",
        "strategy": "leader",
        "hit": False,
    }
    return ClassReport(**{"ranks": ranks, "guard": GuardReport(state="guarded"), **counts, **values, **changes})


def make_report(**changes: Any) -> WarmupReport:
    """Four ready ranks in one class."""
    ranks = tuple(make_rank(rank) for rank in range(4))
    return WarmupReport(
        **{"run_id": "r", "config": {}, "ranks": ranks, "classes": (make_class((0, 1, 2, 3)),), **changes}
    )


def test_all_ready_on_one_digest_is_ready() -> None:
    """Four ready ranks with one digest make a ready run."""
    assert make_report().ready


@pytest.mark.parametrize("state", ["failed", "lost", "loading"])
def test_one_rank_that_is_not_ready_is_enough(state: str) -> None:
    """A single rank in any other state makes the run not ready."""
    ranks = (*(make_rank(rank) for rank in range(3)), make_rank(3, state=state))
    assert not make_report(ranks=ranks).ready


def test_another_digest_is_not_ready() -> None:
    """One rank with another digest, or with none, makes its class disagree."""
    for digest in ("e", None):
        ranks = (*(make_rank(rank) for rank in range(3)), make_rank(3, digest=digest))
        assert not make_report(ranks=ranks).ready


def test_null_digests_agree() -> None:
    """Where nothing was tuned every rank has a null digest, and that is equal."""
    assert make_report(ranks=tuple(make_rank(rank, digest=None) for rank in range(4))).ready


def test_digests_may_differ_between_classes_and_under_independent() -> None:
    """Each class has its own digest; only `independent` may differ inside one."""
    ranks = (make_rank(0), make_rank(1), make_rank(2, digest="e"), make_rank(3, digest="e"))
    assert make_report(ranks=ranks, classes=(make_class((0, 1)), make_class((2, 3)))).ready
    assert not make_report(ranks=ranks).ready
    assert make_report(ranks=ranks, classes=(make_class((0, 1, 2, 3), strategy="independent"),)).ready


def test_an_error_or_an_empty_run_is_not_ready() -> None:
    """A run with an error is not ready whatever its ranks say, nor is one without ranks."""
    assert not make_report(error="phase LOADING: ...").ready
    assert not make_report(ranks=(), classes=()).ready


def test_json_comes_back_equal_and_ready_is_not_believed() -> None:
    """A written report is read back equal; a forged `ready` in the text is ignored."""
    report = make_report(
        files=(FileReport(node_id="n0", path="/a", sha256="0" * 64, bytes=3),),
        classes=(make_class((0, 1, 2, 3), skipped=(Skip("moe", "x", "no"),)),),
        phases={"PROBING": 1.5},
        warnings=("one",),
    )
    assert WarmupReport.from_json(report.to_json()) == report
    failed = make_report(error="no")
    forged = json.dumps({**json.loads(failed.to_json()), "ready": True})
    assert WarmupReport.from_json(forged).ready is False


def test_a_report_is_frozen_and_knows_its_fields() -> None:
    """Fields cannot be replaced or invented."""
    with pytest.raises(ValidationError, match="frozen"):
        make_report().error = "x"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        make_report(redy=True)


def test_the_committed_schema_is_current() -> None:
    """warmup/schemas/report.schema.json is what `ray_warmup.warmup.report.schema` gives, sorted, with two spaces."""
    assert SCHEMA.read_text() == json.dumps(schema(), indent=2, sort_keys=True) + "\n"


def test_the_schema_takes_reports_and_refuses_others() -> None:
    """A written report is valid; one with a missing, an unknown or a wrong field is not."""
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    good = json.loads(make_report().to_json())
    validator.validate(good)
    for change in ({"ready": "yes"}, {"ranks": [{}]}, {"surprise": 1}, {"files": [{"path": "/a"}]}):
        assert not validator.is_valid({**good, **change})
    assert not validator.is_valid({name: value for name, value in good.items() if name != "run_id"})


def test_the_promised_fields_are_written() -> None:
    """Every field that the documentation promises is in the JSON, for run, class, rank and file."""
    written = json.loads(make_report(files=(FileReport(node_id="n", path="/a", sha256="0", bytes=1),)).to_json())
    promised = "schema_version run_id ready config classes ranks files warnings"
    assert set(promised.split()) <= set(written)
    of_class = "key parts leader ranks digest tasks measured reused kept dropped strategy"
    assert set(of_class.split()) <= set(written["classes"][0])
    of_rank = "rank local_rank node_rank node_id role state digest entries hits misses phases error"
    assert set(of_rank.split()) <= set(written["ranks"][0])
    assert set(written["files"][0]) == {"node_id", "path", "sha256", "bytes"}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"schema_version": 99}, RejectedArtifactError, "schema_version: 99: this version reads 2"),
        ({"schema_version": "1"}, CorruptArtifactError, "schema_version: "),
        ({"note": "a field that another version adds"}, CorruptArtifactError, "note: 'a field that"),
        ({"ranks": [{"rank": 0}]}, CorruptArtifactError, "ranks.0.local_rank: Field required"),
        ({"run_id": None}, CorruptArtifactError, "run_id: None: "),
    ],
)
def test_a_report_that_is_none_of_this_version_is_refused_by_name(
    change: dict[str, Any], kind: type[ArtifactError], words: str
) -> None:
    """Another schema version, and what a field's type refuses, are errors of ours that name it."""
    text = json.dumps({**json.loads(WarmupReport(run_id="x", config={}).to_json()), **change})
    with pytest.raises(kind) as caught:
        WarmupReport.from_json(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a":' * 100_000 + "1" + "}" * 100_000, "NaN"])
def test_text_that_is_no_report_is_refused(text: str) -> None:
    """Whatever it is, at whatever depth."""
    with pytest.raises(CorruptArtifactError, match="report: "):
        WarmupReport.from_json(text)
