"""The connection of a command that asks: a server of Ray Client that does not start is tried again, and then told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from socket import create_server
from typing import Any

import pytest
import ray

from ray_warmup.actors.connection.of_questions import attached
from ray_warmup.actors.connection.opening import ATTEMPTS, connect
from ray_warmup.actors.errors import ClusterError

SAID = """Initialization failure from server:
Traceback (most recent call last):
  File "proxier.py", line 772, in Datapath
RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err for detailed logs.

"""
Tried = Callable[..., list[str]]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """Script what each attempt to connect raises, if anything; the list that it returns fills with the addresses."""

    def script(*errors: Exception | None) -> list[str]:
        addresses: list[str] = []
        outcomes = list(errors)

        def init(address: str, **_: Any) -> None:
            addresses.append(address)
            error = outcomes.pop(0)
            if error is not None:
                raise error

        monkeypatch.setattr(ray, "init", init)
        return addresses

    return script


def test_a_server_that_did_not_start_is_tried_again(tried: Tried, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that has the head's own reason and the remedy."""
    addresses = tried(ConnectionAbortedError(SAID), None)
    with caplog.at_level(logging.WARNING):
        connect("ray://head:10001", "tests")
    assert addresses == ["ray://head:10001"] * 2
    (record,) = caplog.records
    assert "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err" in record.getMessage()
    assert "GRPC_ENABLE_FORK_SUPPORT=0" in record.getMessage()


def test_one_that_never_starts_is_told_in_one_line(tried: Tried) -> None:
    """The question ends with the address, the reason and the remedy, without the head's traceback."""
    with closing(create_server(("127.0.0.1", 0))) as listener:
        address = f"ray://127.0.0.1:{listener.getsockname()[1]}"
        addresses = tried(*[ConnectionAbortedError(SAID)] * ATTEMPTS)
        with pytest.raises(ClusterError) as caught, attached(address):
            pytest.fail("nothing has started")
    said = str(caught.value)
    assert len(addresses) == ATTEMPTS
    assert said.startswith(f"no Ray cluster answers at {address} (--address): the head's process for this client")
    assert said.endswith("set GRPC_ENABLE_FORK_SUPPORT=0 in the environment of `ray start --head`")
    assert "\n" not in said


def test_another_error_is_not_tried_again(tried: Tried) -> None:
    """What would come again comes at once."""
    addresses = tried(ConnectionError("nobody listens"))
    with pytest.raises(ConnectionError, match="nobody listens"):
        connect("ray://head:10001", "tests")
    assert len(addresses) == 1
