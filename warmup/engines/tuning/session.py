"""Sockets around the conductor, in the process that started the engine.

A thread accepts ranks, brings their messages to the conductor, and looks at the deadlines. Only processes that know the
start's token are listened to. The launcher asks `reason_to_end` while it waits for its engine.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import selectors
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from ray_warmup.warmup.engines.tuning.conductor import Conductor, Surroundings
from ray_warmup.warmup.engines.tuning.frames import FrameReader, frame
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.unfinished import Unfinished
from ray_warmup.warmup.errors import EngineError, WarmupError
from ray_warmup.warmup.messages.allotting import AllotTasks, TasksAllotted
from ray_warmup.warmup.messages.recorded import Joined
from ray_warmup.warmup.messages.wire import Message, from_bytes

logger = logging.getLogger(__name__)

TICK_S = 0.2
RESERVED = 1 << 16
MAX_STACK_BYTES = 65536


class Link:
    """Stream of one rank, whose number is known once it has joined."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.reader = FrameReader()
        self.rank: int | None = None
        self.is_open = True


class TuningSession:
    """Conducts one replica's tuning over all starts of its engine. Used as a context."""

    def __init__(
        self,
        world_size: int,
        options: TuningOptions,
        root: Path,
        host: str = "127.0.0.1",
        conductor: type[Conductor] = Conductor,
    ) -> None:
        """Listen at once.

        Args:
            world_size: ranks of the replica.
            options: settings of the tuning.
            root: the node's cache root, where unfinished tunings are kept.
            host: address under which the ranks reach this process.
            conductor: what conducts the ranks.

        Raises:
            EngineError: no port can be listened at.
        """
        # Other users of the host can connect to the port, and only this start's ranks know the token.
        self.token = secrets.token_hex(16)
        self._unfinished = Unfinished(root)
        self._stacks: Path | None = None
        around = Surroundings(self._send, self._unfinished.earlier, self._unfinished.keep, self._stack_of)
        self.conductor = conductor(world_size, options, around)
        self._lock = threading.RLock()
        self._links: dict[int, Link] = {}
        self._selector = selectors.DefaultSelector()
        self._is_closed = threading.Event()
        try:
            self._server = socket.create_server((host, 0))
        except OSError as error:
            raise EngineError(f"{host}: no port can be listened at: {error}") from error
        self.address = f"{host}:{self._server.getsockname()[1]}"
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="ray-warmup-tuning", daemon=True)

    def open(self) -> None:
        """Begin to accept ranks."""
        self._thread.start()

    def __enter__(self) -> TuningSession:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def reason_to_end(self) -> str:
        """Return why the engine has to be ended now, or an empty string."""
        with self._lock:
            if self.conductor.error:
                return self.conductor.error
            if self.conductor.wants_restart:
                return "a rank is gone, and the replica starts anew"
            return ""

    @property
    def error(self) -> str:
        """Return why the tuning failed, or an empty string."""
        with self._lock:
            return self.conductor.error

    @property
    def is_unfinished(self) -> bool:
        """Return True if a rank has joined and not every rank serves a table."""
        with self._lock:
            return self.conductor.is_unfinished

    @property
    def stage(self) -> str:
        """Return what is done now, for people."""
        with self._lock:
            return self.conductor.stage

    def variables(self, stacks: Path) -> dict[str, str]:
        """Return the environment by which an engine's ranks find this session, for a start that writes stacks there."""
        self._stacks = stacks
        return {"RAY_WARMUP_TUNE": f"{self.token}@{self.address}"}

    def locked(self) -> threading.RLock:
        """Return the lock under which the conductor may be asked."""
        return self._lock

    def fail(self, reason: str) -> None:
        """End the tuning from outside."""
        with self._lock:
            self.conductor.fail(reason, time.monotonic())

    def allot(self, asked: AllotTasks) -> TasksAllotted:
        """Take what another replica has measured, and give it the next tasks. Callable from any thread."""
        with self._lock:
            return self.conductor.allot(asked, time.monotonic())

    def engine_ended(self) -> bool:
        """Tell the conductor that every process of the engine is gone, and return True if it must start anew."""
        with self._lock:
            is_wanted = self.conductor.wants_restart and not self.conductor.error
            self.conductor.engine_ended(time.monotonic())
            for link in list(self._links.values()):
                self._drop(link)
            return is_wanted

    def keep_quarantine(self) -> None:
        """Keep what nobody may measure for the next attempt, also after a failure."""
        with self._lock:
            for key, group in self.conductor.classes.items():
                if group.quarantine:
                    self._unfinished.ban(key, group.quarantine)

    def forget_finished(self) -> None:
        """Remove finished tasks, whose table is published now."""
        with self._lock:
            for key in self.conductor.classes:
                self._unfinished.forget_results(key)

    def close(self) -> None:
        """End the thread and every stream. A second call does nothing."""
        if self._is_closed.is_set():
            return
        self._is_closed.set()
        if self._thread.is_alive():
            # A daemon thread: one that hangs does not keep the process.
            self._thread.join(5)
        self.keep_quarantine()
        for link in list(self._links.values()):
            link.stream.close()
        self._server.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            for key, _ in self._selector.select(TICK_S):
                with self._lock:
                    self._look(key.fileobj, key.data)
            with self._lock:
                try:
                    self.conductor.tick(time.monotonic())
                except WarmupError as error:
                    self.conductor.fail(str(error), time.monotonic())

    def _look(self, stream: object, link: Link | None) -> None:
        """Accept a rank, or take in what one has sent."""
        if link is None:
            accepted, _ = self._server.accept()
            # A rank that reads nothing must not block the thread that serves the others.
            accepted.settimeout(30)
            # Messages are small, and Nagle's algorithm would hold each back for the answer to the last.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(accepted, selectors.EVENT_READ, Link(accepted))
            return
        if not link.is_open:
            return  # it was dropped since the selector has told of it
        try:
            data = link.stream.recv(RESERVED)
        except OSError:
            data = b""
        if not data:
            self._lost(link)
            return
        try:
            for whole in link.reader.feed(data):
                self._take(link, whole)
        except WarmupError as error:
            self._refuse(link, error)

    def _take(self, link: Link, data: bytes) -> None:
        now = time.monotonic()
        if link.rank is not None:
            self.conductor.received(link.rank, data, now)
            return
        message = from_bytes(data, Joined)
        # Compared in constant time, since any process of the host can reach the port.
        if not hmac.compare_digest(message.token, self.token):
            raise EngineError("a process without this start's token wanted to join")
        if message.rank in self._links:
            raise EngineError(f"rank {message.rank} joined twice")
        link.rank = message.rank
        self._links[message.rank] = link
        self.conductor.joined(message, now)

    def _refuse(self, link: Link, error: WarmupError) -> None:
        """Drop a stream that says what nobody expects. One of a rank ends the tuning, a stranger's does not."""
        logger.info("a message to the tuning was refused: %s", error)
        rank = link.rank
        self._drop(link)
        if rank is not None:
            self.conductor.fail(f"rank {rank}: {error}", time.monotonic())

    def _lost(self, link: Link) -> None:
        rank = link.rank
        self._drop(link)
        if rank is not None:
            self.conductor.ended(rank, time.monotonic())

    def _drop(self, link: Link) -> None:
        if not link.is_open:
            return
        link.is_open = False
        self._selector.unregister(link.stream)
        link.stream.close()
        if link.rank is not None and self._links.get(link.rank) is link:
            del self._links[link.rank]

    def _send(self, rank: int, message: Message) -> None:
        """Send to a rank. One that is gone is told to the conductor by the end of its stream."""
        link = self._links.get(rank)
        if link is None:
            return
        try:
            link.stream.sendall(frame(message))
        except OSError as error:
            logger.info("rank %d does not read: %s", rank, error)

    def _stack_of(self, rank: int) -> str:
        """Read the stacks of a crash, where its process was on this node."""
        if self._stacks is None:
            return ""
        try:
            return (self._stacks / f"rank_{rank}.stack").read_bytes()[:MAX_STACK_BYTES].decode(errors="replace")
        except OSError:
            return ""
