"""Gauges of a live run."""

from __future__ import annotations

from ray_warmup.actors.cluster.metrics_export import EVERY_S
from ray_warmup.actors.run.live_metrics import LiveMetrics, samples_of_status
from ray_warmup.actors.run.status import RankStatus, RunStatus
from ray_warmup.warmup.metrics import sink
from ray_warmup.warmup.metrics.metric import Sample


def status(phase: str) -> RunStatus:
    """Three ranks, one of them silent."""
    ranks = tuple(RankStatus(rank, "n", state=state) for rank, state in enumerate(("alive", "alive", "silent")))
    return RunStatus("warmup-abc", "abc-2026-1", phase, 30.0, done=4, total=10, ranks=ranks)


def test_a_status_becomes_gauges() -> None:
    """Begin, phase, ranks by state and tasks, all with the work's label."""
    found = {(s.metric.name, *s.labels.values()): s.value for s in samples_of_status(status("TUNING"), 1000.0)}
    assert found == {
        ("warmup_run_start_time_seconds", "abc"): 970.0,
        ("warmup_run_phase", "abc", "TUNING"): 1,
        ("warmup_run_ranks", "abc", "alive"): 2,
        ("warmup_run_ranks", "abc", "silent"): 1,
        ("warmup_run_ranks", "abc", "starting"): 0,
        ("warmup_run_tasks", "abc", "done"): 4,
        ("warmup_run_tasks", "abc", "open"): 6,
    }


def test_gauges_are_given_in_time_and_an_old_phase_is_taken_back(monkeypatch) -> None:
    """Not at every step of the machine, since a status costs time; the phase before is 0 at once."""
    seen: list[Sample] = []
    live = LiveMetrics()
    monkeypatch.setattr(sink, "_current", type("Kept", (), {"record": staticmethod(seen.append)}))
    asked = []

    def ask(phase: str) -> RunStatus:
        asked.append(phase)
        return status(phase)

    for now in (0.0, 1.0, EVERY_S - 0.1):
        live.tick(lambda: ask("TUNING"), now)
    assert asked == ["TUNING"]
    live.tick(lambda: ask("GUARDING"), EVERY_S + 1)
    phases = {s.labels["phase"]: s.value for s in seen if s.metric.name == "warmup_run_phase"}
    assert phases == {"TUNING": 0, "GUARDING": 1}
