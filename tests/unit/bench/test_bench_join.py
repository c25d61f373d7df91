"""The join benchmark without Ray: its bytes are really sent and read, and a joined node has the whole artifact."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from ray_warmup.warmup.cache_admin.store_verification import verify_store
from ray_warmup.warmup.store.node_store import NodeStore
from tests.bench.bench_join import MIB, Row, bytes_sent, page_row, summary
from tests.bench.join_actors import KEY_SHA256, Joiner, Publisher


def test_a_joined_node_has_the_whole_artifact(tmp_path: Path) -> None:
    """Reading the shared directory counts at least the artifact's bytes and leaves a store that is whole."""
    shared, own = tmp_path / "shared" / KEY_SHA256, tmp_path / "own" / KEY_SHA256
    publisher, joiner = Publisher(), Joiner(str(own))
    header = publisher.make(MIB, str(shared))
    assert sum(blob.bytes for blob in header.blobs) >= MIB

    assert joiner.shared(header, str(shared)) >= MIB
    assert verify_store(own).problems == ()
    assert NodeStore(own).load_artifact()[0].digest == NodeStore(shared).load_artifact()[0].digest
    joiner.forget()
    assert not own.exists()


@pytest.mark.skipif(shutil.which("ss") is None, reason="`ss` (iproute2) counts the bytes; the benchmark needs it")
def test_bytes_on_the_wire_are_counted() -> None:
    """What a process sends over TCP is in its count; what it only receives is not."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            before = bytes_sent(os.getpid())
            client.sendall(b"x" * 50_000)
            assert len(accepted.recv(50_000, socket.MSG_WAITALL)) == 50_000
            assert 50_000 <= bytes_sent(os.getpid()) - before < 100_000


def test_rows_are_medians_and_ratios() -> None:
    """The middle round counts; ratios are of the two ways in the same rounds."""
    samples = [
        {"pushed": pushed, "shared": shared, "publisher": 256 * MIB, "coordinator": 512 * MIB, "read": 1024 * MIB}
        for pushed, shared in ((1.0, 9.0), (2.0, 4.0), (9.0, 3.0))
    ]
    row = summary(4, samples)
    assert isinstance(row, Row)
    assert (row.pushed_s, row.shared_s, row.shared_over_pushed) == (2.0, 4.0, 2.0)
    assert page_row(row) == "| 4 | 2.00 | 4.00 | 2.00 | 256 | 512 | 1024 | 4.00 |"
