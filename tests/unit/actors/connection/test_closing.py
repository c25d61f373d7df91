"""A command that has its answer does not wait for the end of Ray Client's close."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import ray

from ray_warmup.actors.connection import closing
from tests.artifacts import ROOT

SLOW = """
import sys, threading, time
import ray
from ray_warmup.actors.connection import closing

started = threading.Event()

def shutdown():
    started.set()
    time.sleep(30)

ray.shutdown = shutdown
closing.close(through_client={through_client})
assert started.is_set()
print("the answer")
closing.leave(7)
print("still here")
"""


@pytest.fixture
def slow_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A close that ends when the event is set."""
    may_end = threading.Event()
    monkeypatch.setattr(ray, "shutdown", lambda: may_end.wait(20))
    yield may_end
    may_end.set()
    closing.wait_until_closed()


def test_a_close_through_ray_client_goes_on_in_the_background(slow_end: threading.Event) -> None:
    """It returns as soon as the request is sent; who connects again waits for the end."""
    began = time.monotonic()
    closing.close(through_client=True)
    assert time.monotonic() - began < 5
    threading.Timer(0.3, slow_end.set).start()
    closing.wait_until_closed()
    assert slow_end.is_set()


def test_any_other_close_is_waited_for(slow_end: threading.Event) -> None:
    """A driver's own connection has nothing that goes on without it."""
    threading.Timer(0.2, slow_end.set).start()
    closing.close(through_client=False)
    assert slow_end.is_set()


def test_a_process_with_its_answer_leaves_at_once() -> None:
    """With everything that it printed and its exit code."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SLOW.format(through_client=True)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (7, "the answer\n"), done.stderr
    assert time.monotonic() - began < 25


def test_nothing_is_left_where_nothing_is_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the interpreter ends as always."""
    codes: list[int] = []
    monkeypatch.setattr("ray_warmup.actors.connection.closing.os._exit", codes.append)
    closing.leave(3)
    assert codes == []
