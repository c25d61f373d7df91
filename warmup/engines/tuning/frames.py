"""Whole messages on a stream: a length of four bytes, then a message as it travels (`messages/wire.py`)."""

from __future__ import annotations

import socket
import struct
import threading

from ray_warmup.warmup.errors import MessageError
from ray_warmup.warmup.messages.wire import Message, to_bytes

MAX_FRAME_BYTES = 64 << 20
_LENGTH = struct.Struct(">I")


class FrameReader:
    """Collects bytes and gives back whole messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete. Raises MessageError for a length beyond the limit."""
        self._data += data
        whole: list[bytes] = []
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            if length > MAX_FRAME_BYTES:
                raise MessageError(f"a message of {length} bytes: at most {MAX_FRAME_BYTES} are read")
            end = _LENGTH.size + length
            if len(self._data) < end:
                break
            whole.append(bytes(self._data[_LENGTH.size : end]))
            del self._data[:end]
        return whole


def frame(message: Message) -> bytes:
    """Return a message with its length."""
    data = to_bytes(message)
    return _LENGTH.pack(len(data)) + data


class Connection:
    """One end of a stream that several threads may write to and one reads from."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._reader = FrameReader()
        self._waiting: list[bytes] = []

    def send(self, message: Message) -> None:
        """Send a whole message. Raises OSError."""
        with self._lock:
            self._stream.sendall(frame(message))

    def receive(self) -> bytes | None:
        """Wait for the next message, or return None at the end of the stream. Raises OSError, MessageError."""
        while not self._waiting:
            data = self._stream.recv(1 << 16)
            if not data:
                return None
            self._waiting += self._reader.feed(data)
        return self._waiting.pop(0)

    def close(self) -> None:
        """End the stream."""
        self._stream.close()
