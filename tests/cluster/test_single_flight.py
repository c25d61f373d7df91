"""One run per piece of work at a time; other work is not held up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ray_warmup.actors.driver.status import live_runs
from ray_warmup.actors.errors import BusyError
from tests.testbed import Case

pytestmark = pytest.mark.cluster


def test_a_second_run_waits_and_finds_the_table(case: Case) -> None:
    """The second run of the same work says that it waits, starts when the first has ended, and measures nothing."""
    case.script(pause_s={"tune": 2})
    tuning = threading.Event()
    told: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(case.run, on_event=lambda event: tuning.set() if event.get("phase") == "TUNING" else None)
        assert tuning.wait(30)
        second = case.run(on_event=told.append)
        assert first.result(60).ready
    assert second.ready, second.error
    assert told[0]["event"] == "waiting"
    assert (second.classes[0].hit, second.classes[0].measured) == (True, 0)
    assert len(case.calls("tune")) == 10


@pytest.mark.alone
def test_the_live_run_can_be_asked(case: Case) -> None:
    """While it tunes, the coordinator says phase, and for each rank node, task and since when."""
    case.script(pause_s={"tune": 3})
    tuning = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        active = pool.submit(case.run, on_event=lambda event: tuning.set() if event.get("phase") == "TUNING" else None)
        assert tuning.wait(30)
        time.sleep(1.2)  # two heartbeats
        (status,) = live_runs()
        assert active.result(60).ready
    assert status.phase == "TUNING"
    assert [rank.node_id for rank in status.ranks] == [node.node_id for node in case.bed.nodes[:2]]
    assert status.ranks[0].task.startswith("cpu_gemm:cpu:float32:k=")
    assert 0.2 < status.ranks[0].for_s < 5
    assert status.ranks[1].task == ""
    assert all(rank.state == "alive" and rank.heard_s < 2 for rank in status.ranks)
    assert not live_runs()


@pytest.mark.alone
def test_no_wait_is_refused_and_disturbs_nothing(case: Case) -> None:
    """With `wait=False` the second run raises BusyError at once, naming the actor; the first one ends as ready."""
    case.script(pause_s={"tune": 1})
    tuning = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(case.run, on_event=lambda event: tuning.set() if event.get("phase") == "TUNING" else None)
        assert tuning.wait(30)
        began = time.monotonic()
        with pytest.raises(BusyError, match="another run of this work is active") as caught:
            case.run(wait=False)
        assert time.monotonic() - began < 1
        assert str(caught.value.details["actor"]).startswith("warmup-")
        assert first.result(60).ready


def test_waiting_has_a_deadline(case: Case) -> None:
    """A run that waits longer than timeouts.single_flight gives up and names the setting."""
    case.script(pause_s={"tune": 4})
    tuning = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(case.run, on_event=lambda event: tuning.set() if event.get("phase") == "TUNING" else None)
        assert tuning.wait(30)
        with pytest.raises(BusyError, match=r"within 1 s \(timeouts.single_flight\)"):
            case.run(case.config(timeouts={"single_flight": 1}))
        assert first.result(60).ready
