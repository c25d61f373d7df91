"""A lost control service: seen in time, not for one missed answer, and by name."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ray_warmup.actors.connection import control_service
from ray_warmup.actors.connection.control_service import EVERY_S, LOST_AFTER_S, ControlService


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def listening() -> socket.socket:
    """A server on a free port."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(1)
    return server


def test_a_service_that_ends_is_lost_after_its_limit() -> None:
    """Reachable, then gone for less than the limit, then for longer."""
    clock = Clock()
    with listening() as server:
        service = ControlService(f"127.0.0.1:{server.getsockname()[1]}", clock=clock)
        assert (service.is_reachable(), service.why_lost()) == (True, None)
    clock.now += EVERY_S
    assert service.why_lost() is None
    clock.now += LOST_AFTER_S - 1
    assert service.why_lost() is None
    clock.now += 1
    assert f"(GCS, {service.address}) could not be reached for {LOST_AFTER_S:.0f} s" in (service.why_lost() or "")


def test_one_that_comes_back_is_not_lost() -> None:
    """A restart within the limit begins anew."""
    clock = Clock()
    with listening() as server:
        address = server.getsockname()
    service = ControlService(f"127.0.0.1:{address[1]}", clock=clock)
    assert service.why_lost() is None
    clock.now += LOST_AFTER_S - 1
    with socket.create_server(address):
        assert service.why_lost() is None
    clock.now += EVERY_S
    assert service.why_lost() is None


@pytest.mark.parametrize("address", ["auto", "local", "http://head:8265", ""])
def test_an_address_that_only_ray_understands_says_nothing(address: str) -> None:
    """Nobody is called lost by an address that cannot be tried."""
    assert ControlService(address).is_reachable()


def test_who_waits_for_the_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's watch ends with the sentence for its report."""
    monkeypatch.setattr(control_service, "EVERY_S", 0.01)
    with listening() as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    said = asyncio.run(asyncio.wait_for(ControlService(address, lost_after_s=0.05).lost(), 5))
    assert said.startswith(f"the cluster's control service (GCS, {address}) could not be reached for 0 s")
