"""Rows for people and machines about the requests that an engine makes to FlashInfer, as recorded and tuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console

from ray_warmup.configs.clause import when
from ray_warmup.scripts.terminal.console import add_row, say, table_of
from ray_warmup.warmup.engines.tuning.engine_table import requests_of
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.messages.recorded import TableProof
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.workloads.recipes import reason_to_stay, recipe_of
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest


def requests_json(requests: Sequence[RecordedRequest]) -> list[JsonValue]:
    """Plain JSON values of requests."""
    rows: list[JsonValue] = []
    for one in requests:
        rows.append(
            {
                "op": one.op,
                "shapes": one.shapes(),
                "runners": list(one.runner_names),
                "buckets": list(one.buckets),
                "keeps_default": one.keeps_default,
                "made_again_by": made_again_by(one),
                "stays_because": reason_to_stay(one),
                "digest": one.digest,
            }
        )
    return rows


def show_requests(console: Console, requests: Sequence[RecordedRequest]) -> None:
    """Print one row for each request, or nothing where the engine asked for none."""
    if not requests:
        return
    table = table_of(
        "op", "shapes", "runners", "sizes", "largest", "keeps its default because", "measured by others through"
    )
    for one in requests:
        runners, sizes = ", ".join(one.runner_names), len(one.buckets)
        elsewhere = made_again_by(one) or when(one.is_tuned, f"no: {reason_to_stay(one)}")
        add_row(table, one.op, one.shapes(), runners, sizes, max(one.buckets), one.keeps_default, elsewhere)
    console.print(table)


def made_again_by(request: RecordedRequest) -> str:
    """Return the function by which other replicas make a request again, empty where they cannot."""
    if reason_to_stay(request):
        return ""
    return recipe_of(request).name


def show_kept_requests(console: Console, paths: Sequence[str]) -> None:
    """Print the requests of every store that holds some. A store that cannot be read is one line."""
    for path in paths:
        try:
            requests = requests_of(NodeStore(Path(path)).read_artifact(("recorded_requests",)))
        except WarmupError as error:
            say(console, f"{path}: {error}")
            continue
        if requests:
            say(console, f"asked of FlashInfer, as recorded in {path}:")
            show_requests(console, requests)


def proof_line(rank: int, proof: TableProof) -> str:
    """One line about a rank's lookups."""
    beyond = ""
    if proof.beyond:
        beyond = f", {proof.beyond} with more tokens than its tuning reaches"
    return (
        f"rank {rank}: {proof.hits} of {proof.entries} entries of its table hit, {proof.own_hits} lookups of the "
        f"engine's own hit, {len(proof.own_misses)} missed{beyond}"
    )
