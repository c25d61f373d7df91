"""Addresses: which can be joined, what is said of the others, and that nobody takes one for an empty cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from ray_warmup.actors.connection.addresses import check_direct, chosen, host_and_port, reach
from ray_warmup.actors.connection.of_questions import attached
from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import ConfigError, load_config


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("head.cluster.local:6379", ("head.cluster.local", 6379)),
        ("[fd00::12]:6509", ("fd00::12", 6509)),
        ("[::1]:6379", ("::1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("ray://[fd00::12]:10001", ("fd00::12", 10001)),
        ("auto", None),
        ("local", None),
    ],
)
def test_host_and_port_are_read(address: str, place: tuple[str, int] | None) -> None:
    """With names, with addresses of either version in Ray's spelling, behind `ray://`."""
    assert host_and_port(address) == place


@pytest.mark.parametrize("address", ["http://10.0.0.1:8265", "https://ray.example/", "anyscale://x", "host:99999"])
def test_what_cannot_be_joined_is_explained(address: str) -> None:
    """Where jobs are submitted is another place; the message says which address is meant, or how to submit."""
    with pytest.raises(ClusterError) as caught:
        host_and_port(address)
    assert address in str(caught.value)
    assert "host:port" in str(caught.value)


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    """Something that listens on this machine, as an address."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        server = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"no {request.param} here")
    with closing(server):
        host = f"[{request.param}]" if ":" in request.param else request.param
        yield f"{host}:{server.getsockname()[1]}"


def test_what_listens_is_reached(listener: str) -> None:
    """Over either version of the protocol, and what has ended is not."""
    reach(listener)
    with pytest.raises(ClusterError, match="no Ray cluster at"):
        reach(listener.rpartition(":")[0] + ":1")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "127.0.0.1:1", "[::1]:1", "ray://127.0.0.1:1", "no such host:1"]
)
@pytest.mark.parametrize("by", ["variable", "option"])
def test_a_cluster_that_could_not_be_asked_is_an_error(address: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never `there is none`, whoever gave the address; the message names the address and its source."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if by == "variable":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError) as caught, attached(address if by == "option" else None):
        pytest.fail("there is no cluster")
    assert address in str(caught.value)
    assert ("$RAY_ADDRESS" if by == "variable" else "--address") in str(caught.value)


def test_auto_follows_the_variable_as_in_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """$RAY_ADDRESS wins over nothing and over `auto`, not over an address."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert [chosen(given) for given in (None, "auto", "10.0.0.2:1")] == ["10.0.0.1:6379"] * 2 + ["10.0.0.2:1"]
    monkeypatch.delenv("RAY_ADDRESS")
    assert [chosen(given) for given in (None, "auto")] == [None, "auto"]


@pytest.mark.parametrize("by", ["config", "variable"])
def test_a_run_through_ray_client_is_refused_by_name(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started: what is needed instead, and what does work there."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    address = "ray://127.0.0.1:10001"
    if by == "variable":
        monkeypatch.setenv("RAY_ADDRESS", address)
    config = load_config("cpu_two_nodes", [f"cluster.address={address}"] if by == "config" else [])
    with pytest.raises(ConfigError, match="ray job submit") as caught:
        check_direct(config)
    assert address in str(caught.value)
    check_direct(load_config("cpu_two_nodes", ["cluster.address=127.0.0.1:6379"]))
