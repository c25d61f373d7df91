"""Close a connection to Ray at the end of a command that only asked.

Ray Client waits in its close until the server's process of this client has ended, for up to half a second. An answer
that is known need not wait for that: the request to close is sent, and the rest goes on in a thread.
"""

from __future__ import annotations

import os
import sys
import threading

SENT_S = 0.1
"""For the request to reach the server. One that never arrives costs the server its grace period of 30 s."""
ENDED_S = 10.0
"""Before the same process connects again."""
_closing: list[threading.Thread] = []


def close(*, through_client: bool) -> None:
    """Disconnect this process from Ray. Through Ray Client the end may still be on its way when this returns."""
    import ray

    if not through_client:
        ray.shutdown()
        return
    thread = threading.Thread(target=ray.shutdown, name="ray-client-close", daemon=True)
    thread.start()
    thread.join(SENT_S)
    _closing.append(thread)


def wait_until_closed() -> None:
    """Wait for a close that is still on its way, as a new connection of this process must."""
    while _closing:
        _closing.pop().join(ENDED_S)


def leave(code: int) -> None:
    """End the process at once if nothing but a close is on its way, else return.

    Ray's own hook at the interpreter's exit would wait for that close.
    """
    if not any(thread.is_alive() for thread in _closing):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
