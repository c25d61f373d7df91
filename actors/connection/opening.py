"""Open the connection of a command that only asks a cluster.

Through Ray Client the head starts a process for each connection. With grpcio 1.81 or later that process can die between
fork and exec: a thread of gRPC in the forked child polls a descriptor that Python has just closed (grpc/grpc#43055).
Ray's client says so after 30 to 40 s, in a traceback of the head. Another connection gets another process.
"""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

ATTEMPTS = 2
_REMEDY = "set GRPC_ENABLE_FORK_SUPPORT=0 in the environment of `ray start --head`"


def connect(address: str, namespace: str) -> None:
    """Connect this process to a running cluster.

    Raises ConnectionError, OSError, RayError, RuntimeError, ValueError: as `ray.init` does, but a server process of
    Ray Client that does not start is tried again, and then told in one line with its remedy.
    """
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.WARNING)
            return
        except ConnectionAbortedError as error:  # raised by Ray Client alone, for what the head said
            reason = _last_line(error)
            if attempt == ATTEMPTS:
                raise ConnectionAbortedError(
                    f"the head's process for this client did not start, {ATTEMPTS} times: {reason} -> {_REMEDY}"
                ) from error
        text = "the head's process for this client did not start, so another one is asked for: %s -> %s"
        logger.warning(text, reason, _REMEDY)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
