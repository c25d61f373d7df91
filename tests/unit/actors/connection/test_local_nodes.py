"""Ray on this machine alone: where its sockets fit, and one message where it does not start."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray

from ray_warmup.actors.connection import local_nodes
from ray_warmup.actors.connection.local_nodes import MAX_CHARS, local_ray
from ray_warmup.actors.connection.sigterm import kept_sigterm
from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import env, load_config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where Ray would have been started, instead of starting it."""
    places: list[str] = []
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setattr(ray, "init", lambda **options: places.append(env.snapshot()["RAY_TMPDIR"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return places


CONFIG = load_config("cpu_two_nodes", ["cluster.simulated_nodes=0", "cluster.num_nodes=1"])


@pytest.mark.parametrize("length", [20, MAX_CHARS, MAX_CHARS + 1, 83, 200])
def test_a_long_tmpdir_is_not_used(
    length: int, started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's sockets lie deep below it and may have 107 characters: a longer one gives way to a short directory."""
    base = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    directory = base / ("d" * (length - len(str(base)) - 1)) if length > len(str(base)) + 1 else base
    directory.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    with local_ray(CONFIG, "tests"):
        (place,) = started
        assert Path(place, "ray").is_dir()
        assert place.startswith(str(directory)) is (length <= MAX_CHARS)
        socket = f"{place}/ray/session_2026-11-28_01-43-22_123456_1234567/sockets/plasma_store.1"
        assert len(socket) <= 107
    assert not Path(place).exists()


def test_without_a_short_directory_one_message_names_tmpdir(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started, and the message says how long the directory may be."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("d" * 90)))
    monkeypatch.setattr(local_nodes, "SHORT_PLACES", (str(tmp_path / "none"),))
    with pytest.raises(ClusterError, match=rf"TMPDIR=.*at most {MAX_CHARS}"), local_ray(CONFIG, "tests"):
        pytest.fail("started")
    assert not started


@pytest.mark.parametrize(
    "error",
    [
        OSError("AF_UNIX path length cannot exceed 107 bytes"),
        RuntimeError("Failed to start\nmore"),
        ConnectionError("no"),
        ValueError("bad port"),
        ray.exceptions.RaySystemError("x"),
        SystemExit(1),
    ],
)
def test_whatever_starting_ray_raises_is_one_message(
    error: BaseException, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first line of what it said, and a way out."""

    def fails(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ClusterError) as caught, local_ray(CONFIG, "tests"):
        pytest.fail("started")
    assert len(str(caught.value).splitlines()) == 1


def test_sigterm_stays_what_it_was() -> None:
    """Ray replaces the handler when a process connects; afterwards it is the process' own again."""

    class ArrivedError(Exception):
        """SIGTERM was handled here."""

    def own(number: int, frame: object) -> None:
        raise ArrivedError

    before = signal.signal(signal.SIGTERM, own)
    try:
        with kept_sigterm():
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is own
        with pytest.raises(ArrivedError), kept_sigterm():
            raise SystemExit(signal.SIGTERM)  # Ray's own handler, while the connection is made
    finally:
        signal.signal(signal.SIGTERM, before)
