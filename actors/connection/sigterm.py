"""Keep this process's SIGTERM handler, which Ray replaces when a process connects."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from ray_warmup.actors.errors import ClusterError


@contextlib.contextmanager
def kept_sigterm() -> Iterator[None]:
    """Keep the SIGTERM handler across `ray.init`, and turn Ray's own exit into an error.

    Ray sets one that exits, and one in C++ that prints a stack; a process without its own keeps those.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:
        if callable(before) and ended.code == signal.SIGTERM:
            before(signal.SIGTERM, None)  # it came while Ray's own handler was in place
        raise ClusterError(f"Ray ended this process' connection while it was made (exit code {ended.code})") from ended
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
