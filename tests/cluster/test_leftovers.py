"""The positive control of every test here: what is left behind is found."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.raylets import ended, is_ignored, raylet_pid
from tests.testbed import GONE_WITHIN_S, Case, wait_until

pytestmark = pytest.mark.cluster


class Bystander:
    """An actor that nobody ended."""


def test_what_is_left_behind_is_named(case: Case) -> None:
    """An object, an actor, a placement group, a zombie and a temporary file; once they are gone there is nothing."""
    import ray
    from ray.util import placement_group, remove_placement_group

    kept = ray.put(bytes(1 << 20))
    actor = ray.remote(Bystander).options(num_cpus=0).remote()
    group = placement_group([{"CPU": 1}])
    case.cache(case.bed.nodes[0]).mkdir()
    temporary = case.cache(case.bed.nodes[0]) / "table.tmp"
    temporary.touch()
    with subprocess.Popen(["true"]) as child:
        case.pids.add(child.pid)
        words = ("actor Bystander", "placement group ", f"process {child.pid}", str(temporary))
        assert wait_until(lambda: all(word in " ".join(case.leftovers()) for word in words), 10), case.leftovers()
        assert wait_until(lambda: "1 objects on node" in " ".join(case.objects()), 10), case.objects()
    del kept
    ray.kill(actor)
    remove_placement_group(group)
    temporary.unlink()
    assert wait_until(lambda: not case.leftovers() + case.objects(), GONE_WITHIN_S), case.leftovers()


def test_no_worker_that_dies_ends_its_raylet(case: Case) -> None:
    """By the SIGPIPE of a raylet that just gives it memory: `broken_pipes_ignored`."""
    handles = [case.bed.head, *(node.handle for node in case.bed.nodes)]
    assert all(is_ignored(raylet_pid(handle), signal.SIGPIPE) for handle in handles)
    assert ended(handles) == []
