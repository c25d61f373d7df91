"""The compiled part of an imported artifact, put in place on this node, so that an engine finds it without a run.

The node is described as in a dry run, without torch, FlashInfer and a CUDA context. On a node without a GPU, for
example in an image build, driver and architecture are taken from the artifact. Both are in its key, so no other node
reads its store. A part that does not fit is a note and no error, because an engine compiles what it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.artifact.member_path import check_member_path
from ray_warmup.warmup.caches.compiled_part import COMPILED, NodeKernelCaches
from ray_warmup.warmup.device.host_facts import UNKNOWN, gpu_parts, torch_facts
from ray_warmup.warmup.errors import UnsafeArchiveError
from ray_warmup.warmup.store.node_store import NodeStore

_DEVICE = ("driver", "arch", "cuda_version")


@dataclass(frozen=True, slots=True)
class Placed:
    """Files that an engine finds besides the table, and notes on missing ones."""

    files: tuple[tuple[Kind, int], ...] = ()
    """(kind, files written) of what is in place; 0 where all of it was there."""
    notes: tuple[str, ...] = ()


def put_in_place(
    store: NodeStore,
    generation: int,
    workspace: Path,
    environ: Mapping[str, str],
    *,
    modes: Modes = OWNER_ONLY,
) -> Placed:
    """Install what a stored generation has compiled, where this process' environment looks for it.

    Raises StoreError, CorruptArtifactError for the store; UnsafeArchiveError for an architecture that is no name.
    """
    artifact, lease = store.load_artifact(COMPILED, generation)
    try:
        kinds = [kind for kind in COMPILED if artifact.manifest.of_kind(kind)]
        if not kinds:
            return Placed()
        made_on = _made_on(artifact)
        here, notes = _here(made_on, environ)
        differs = []
        for name, has in here.items():
            if made_on[name] != has:
                differs.append(f"{name}: made with {made_on[name][:80]!r}, this node has {has!r}")
        if differs:
            return Placed(notes=(f"what is compiled was not put in place: {'; '.join(differs)}",))
        try:
            done = NodeKernelCaches(made_on, store.directory, workspace, environ, modes=modes).install(artifact)
        except metadata.PackageNotFoundError as error:
            return Placed(notes=(f"what is compiled was not put in place: {error.name} is not installed here",))
        return Placed(tuple(row for row in done.counts if row[0] in kinds), (*notes, *done.warnings))
    finally:
        lease.release()


def _made_on(artifact: Artifact) -> dict[str, str]:
    fingerprint = dict(artifact.manifest.fingerprint)
    made_on = {name: fingerprint.get(name, "") for name in _DEVICE}
    arch = made_on["arch"]
    if arch and "/" in check_member_path(arch):  # it becomes a directory's name
        raise UnsafeArchiveError(f"the artifact's architecture {arch[:80]!r} is not one directory's name")
    return made_on


def _here(made_on: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return this node's facts that need no device context, and notes on assumed ones."""
    if not made_on["driver"]:  # made without a GPU
        return {}, ()
    cuda = {"cuda_version": torch_facts()[1] or UNKNOWN}
    try:
        gpu = gpu_parts(0, environ.get("FLASHINFER_CUDA_ARCH_LIST"))
    except RuntimeError:
        return cuda, (
            f"no GPU here: it is for nodes with driver {made_on['driver'][:80]!r} and {made_on['arch'][:80]!r}",
        )
    return cuda | {name: gpu[name] for name in ("driver", "arch")}, ()
