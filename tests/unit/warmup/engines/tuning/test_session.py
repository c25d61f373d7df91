"""The sockets around a conductor: who is listened to, and what the end of a stream means."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_warmup.warmup.engines.tuning.frames import Connection
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.messages.recorded import Joined, Welcome
from ray_warmup.warmup.messages.wire import from_bytes
from tests.unit.warmup.engines.tuning.scripted import recording


@pytest.fixture
def session(tmp_path: Path) -> Iterator[TuningSession]:
    """A session of two ranks."""
    with TuningSession(2, TuningOptions(), tmp_path) as made:
        yield made


def connected(session: TuningSession) -> Connection:
    """A process that has reached the port."""
    host, _, port = session.address.rpartition(":")
    stream = socket.create_connection((host, int(port)), timeout=10)
    return Connection(stream)


def joined(session: TuningSession, rank: int = 0) -> Connection:
    """A rank that has joined and was welcomed."""
    connection = connected(session)
    connection.send(Joined(session.token, rank, 2, recording()))
    data = connection.receive()
    assert data is not None
    assert isinstance(from_bytes(data, Welcome), Welcome)
    return connection


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the session's thread does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_process_without_the_token_is_dropped_and_changes_nothing(session: TuningSession) -> None:
    """Other users of the host can reach the port."""
    stranger = connected(session)
    stranger.send(Joined("not the token", 0, 2, recording()))
    assert stranger.receive() is None
    stranger.close()
    assert (session.error, session.is_unfinished, session.reason_to_end) == ("", False, "")
    joined(session).close()


def test_a_rank_joins_once(session: TuningSession) -> None:
    """A second process that says it is the same rank is dropped, and the first one stays."""
    first = joined(session)
    second = connected(session)
    second.send(Joined(session.token, 0, 2, recording()))
    assert second.receive() is None
    second.close()
    assert session.error == ""
    assert session.is_unfinished
    assert session.stage == "1 of 2 ranks wait to be tuned"
    first.close()


def test_what_a_rank_sends_that_nobody_expects_ends_the_tuning(session: TuningSession) -> None:
    """By the rank's number."""
    rank = joined(session, 1)
    rank.send(Joined(session.token, 1, 2, recording()))
    until(lambda: session.error != "")
    assert session.error.startswith("rank 1: ")
    rank.close()


def test_a_rank_that_is_gone_ends_its_engine(session: TuningSession) -> None:
    """The other ranks would wait for it in their next collective."""
    joined(session).close()
    until(lambda: session.reason_to_end != "")
    assert session.reason_to_end == "a rank is gone, and the replica starts anew"
    assert session.engine_ended()
    assert session.reason_to_end == ""
