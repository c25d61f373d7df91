"""A real S3 server process on loopback (moto), and a proxy before it that misbehaves when it is told to.

By hand: `moto_server -H 127.0.0.1 -p 5555`, then `AWS_ENDPOINT_URL=http://127.0.0.1:5555` with any credentials.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

_START_S = 30.0


@dataclass
class S3Server:
    """Address of a running server, and how the proxy before it treats the next connections."""

    endpoint: str
    faults: list[str] = field(default_factory=list)
    """Each is used once: `drop` closes at once, `slow` waits a second before each part of the answer."""
    gone: str = ""
    """While it is `closed`, every connection is closed; while it is `silent`, none is answered."""
    gone_after: int | None = None
    """After so many more bytes in either direction it is gone, `closed`."""

    def passes(self, count: int) -> bool:
        """Count bytes, and return False once the server is gone."""
        if self.gone_after is not None:
            self.gone_after -= count
            if self.gone_after < 0:
                self.gone, self.gone_after = "closed", None
        return not self.gone

    def environment(self) -> dict[str, str]:
        """Variables of botocore's own that lead a client here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def s3_server(**settings: str) -> Iterator[S3Server]:
    """Start the server and the proxy, and end both.

    `settings` are variables of the server: INITIAL_NO_AUTH_ACTION_COUNT=0 makes it refuse unknown credentials.
    """
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(command, env=clean | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        listener = socket.create_server(("127.0.0.1", 0))
        server = S3Server(f"http://127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=_serve, args=(listener, port, server), daemon=True).start()
        try:
            yield server
        finally:
            listener.close()
    finally:
        process.kill()
        process.wait()


def make_bucket(server: S3Server, name: str) -> None:
    """Create a bucket with a plain request, because the clients under test have no need to."""
    request = urllib.request.Request(f"{server.endpoint}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the S3 server ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.05)
    raise TimeoutError(f"the S3 server did not listen on port {port} within {_START_S:g} s")


def _serve(listener: socket.socket, port: int, server: S3Server) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # closed: the test is over
            return
        fault = server.faults.pop(0) if server.faults else ""
        if fault == "drop" or server.gone == "closed":
            client.close()
            continue
        upstream = socket.create_connection(("127.0.0.1", port))
        for source, target, pause in ((client, upstream, 0.0), (upstream, client, 1.0 if fault == "slow" else 0.0)):
            threading.Thread(target=_pump, args=(source, target, pause, server), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, pause_s: float, server: S3Server) -> None:
    """Copy bytes until one side ends, or the server is gone."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 14):
            time.sleep(pause_s)
            if not server.passes(len(data)):
                while server.gone == "silent":
                    time.sleep(0.05)
                break
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.close()
