"""Where files go and where they do not: shared, separate and refused directories; modes that write nothing."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.artifact.table import parse_table
from tests.fakes import METADATA
from tests.testbed import Case

pytestmark = pytest.mark.cluster


def test_a_shared_directory_has_one_writer(case: Case) -> None:
    """Two nodes with one directory: one rank writes, both load its file."""
    case.bed.nodes[0].home.joinpath(case.name).mkdir()
    shared = case.bed.nodes[0].home / case.name / "shared"
    report = case.run(case.config(cache={"override_dir": str(shared)}))
    assert report.ready, report.error
    assert [rank.role for rank in report.ranks] == ["leader", "follower"]
    assert {file.node_id for file in report.files} == {case.bed.nodes[0].node_id}
    (table,) = shared.rglob("autotune_configs.json")
    assert table.parent.parent == shared
    assert len(list(shared.rglob("manifest.json"))) == 1
    assert not case.files(case.bed.nodes[1], "*")


def test_equal_paths_on_two_hosts_get_a_writer_each(case: Case) -> None:
    """`~/cache` is another directory on each node: both are written, each by a rank of its own."""
    report = case.run(case.config(cache={"override_dir": f"~/{case.name}"}))
    assert report.ready, report.error
    assert [rank.role for rank in report.ranks] == ["leader", "writer"]
    assert {file.node_id for file in report.files} == {node.node_id for node in case.bed.nodes[:2]}
    assert {case.table(node).is_file() for node in case.bed.nodes[:2]} == {True}


def test_the_environment_decides_where_the_config_does_not(case: Case) -> None:
    """Without `cache.root` each node uses its own RAY_WARMUP_CACHE_ROOT, which is never forwarded."""
    report = case.run(case.config(cache={"root": None}))
    assert report.ready, report.error
    for node in case.bed.nodes[:2]:
        (table,) = (node.home / "root").rglob("autotune_configs.json")
        assert table.parts[-5:-3] == ("flashinfer_autotune_cache", "0.7.2.post1")
        assert table.parts[-3] == "scripted"
        assert len(table.parts[-2]) == 64


def test_a_directory_below_a_file_degrades_to_memory(case: Case) -> None:
    """A node whose cache cannot be created loads from memory, with a warning that names it and the setting."""
    first, second = case.bed.nodes[:2]
    case.cache(second).write_text("a regular file")
    report = case.run(case.config(cache={"require_disk": False}))
    assert report.ready, report.error
    assert report.on_disk == "1 of 2 nodes"
    assert {rank.digest for rank in report.ranks} == {report.classes[0].digest}
    assert {file.node_id for file in report.files} == {first.node_id}
    (warning,) = [text for text in report.warnings if "load from memory" in text]
    assert f"rank 1 on node {second.node_id[:8]}" in warning
    assert "cache.root" in warning
    assert case.cache(second).read_text() == "a regular file"
    case.cache(second).unlink()


def test_non_persistent_writes_nothing(case: Case) -> None:
    """`cache.persistent=false`: every rank serves one digest and no node has a single file."""
    before = {path for node in case.bed.nodes for path in node.home.rglob("*")}
    report = case.run(case.config(cache={"persistent": False}))
    assert report.ready, report.error
    assert [(rank.entries, rank.digest) for rank in report.ranks] == [(10, report.classes[0].digest)] * 2
    assert not report.files
    after = {path for node in case.bed.nodes for path in node.home.rglob("*") if path.suffix != ".jsonl"}
    assert after <= before


def test_independent_ranks_tune_for_themselves(case: Case) -> None:
    """Strategy `independent`: all ranks measure all tasks; a warning says that digests may differ."""
    case.script(case.bed.nodes[1], salt="of its own")
    report = case.run(case.config(autotune={"strategy": "independent"}))
    assert report.ready, report.error
    assert len({rank.digest for rank in report.ranks}) == 2
    tuned = case.calls("tune")
    assert sorted(sum(line.node is node for line in tuned) for node in case.bed.nodes) == [0, 10, 10]
    assert any("independent" in warning and "differ" in warning for warning in report.warnings)
    assert not report.files


def test_a_device_that_is_slow_at_a_shared_task_does_not_lead(case: Case) -> None:
    """Sharded ranks measure one task together; a leader at twice its peer's time is named and gives up the lead.

    On its GPU the guard also finds every winner slower than the default: whoever judged first, none is published.
    """
    case.script(case.bed.nodes[0], reference_s=0.001, slow_ratio=2.0, guard_ratio=0.98)
    case.script(case.bed.nodes[1], reference_s=0.001)
    report = case.run(case.config(cluster={"gpus_per_rank": 1}, autotune={"strategy": "sharded"}))
    assert report.ready, report.error
    assert [rank.role for rank in report.ranks] == ["writer", "leader"]
    assert len(case.calls("tune")) == 10 + 2  # `measure` of this tuner is one more call of its `tune`
    (group,) = report.classes
    assert (group.guard.kept, group.guard.slower, group.dropped) == (0, 10, 10)
    by_both = "2.000 times as fast as the default on rank 1, 0.980 times as fast on rank 0: not faster than the default"
    assert {row.reason for row in group.task_reports} == {"not faster than the default", by_both}
    entries = parse_table(case.table(case.bed.nodes[1]).read_bytes()).entries
    assert {entry.tactic for entry in entries.values()} == {-1}
    assert any("rank 0 on node" in text and "needs 2.00 times its peers' time" in text for text in report.warnings)


@pytest.mark.parametrize("switch", [{"optimization_level": "O0"}, {"enabled": False}])
def test_switched_off_is_ready_at_once(case: Case, switch: dict[str, object]) -> None:
    """O0, or the explicit switch over any level: ready without a tuner, a file or a measurement."""
    report = case.run(case.config(autotune=switch))
    assert report.ready, report.error
    assert not case.lines()
    assert not report.files
    assert [rank.digest for rank in report.ranks] == [None, None]


def test_the_switch_wins_over_the_level(case: Case) -> None:
    """`enabled: true` tunes at O0."""
    report = case.run(case.config(autotune={"optimization_level": "O0", "enabled": True}))
    assert report.ready, report.error
    assert report.classes[0].measured == 10


def test_nothing_to_tune_is_ready_with_a_warning(case: Case) -> None:
    """A device that runs none of the tunable ops serves defaults, and the report says so."""
    case.script(refuse=["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"])
    report = case.run()
    assert report.ready, report.error
    assert [rank.digest for rank in report.ranks] == [None, None]
    assert any("nothing was tuned" in warning and "default" in warning for warning in report.warnings)
    assert {skip.reason for skip in report.classes[0].skipped} == {"the script refuses it"}


@pytest.mark.parametrize(
    ("part", "one", "other"), [("driver", "580.1", "590.2"), ("flashinfer_version", "0.7.2.post1", "0.7.3")]
)
def test_two_environments_make_two_classes(case: Case, part: str, one: str, other: str) -> None:
    """A node with another driver or FlashInfer gets a class, leader and table of its own; a warning names the part and
    its cost."""
    first, second = case.bed.nodes[:2]
    case.script(first, parts={part: one})
    case.script(second, parts={part: other}, metadata={part: other} if part in METADATA else {}, salt="of its own")
    report = case.run()
    assert report.ready, report.error
    assert sorted((group.ranks, group.leader, group.measured) for group in report.classes) == [
        ((0,), 0, 10),
        ((1,), 1, 10),
    ]
    assert report.ranks[0].digest != report.ranks[1].digest
    assert {rank.digest for rank in report.ranks} == {group.digest for group in report.classes}
    assert case.table(first).parent.name != case.table(second).parent.name
    assert any(f"{part}: {one!r} and {other!r}" in text and "10 tasks once more" in text for text in report.warnings)
