"""Losses of a run with a real engine: what a process or a node takes along."""

from __future__ import annotations

from ray_warmup.warmup.engines.machine.state import EngineRun


def forget_process(run: EngineRun, rank: int) -> None:
    """A process is gone, and with it the engine that it recorded and the blobs that it was to hand over."""
    for group in run.classes.values():
        if group.recorder == rank:
            group.forget_recording()
        if group.packer == rank and not group.is_adopted:
            group.packer, group.header = None, None


def forget_node(run: EngineRun, node_id: str) -> None:
    """A node is gone, and with it its store. The class records anew if nobody else has its artifact."""
    run.nodes.pop(node_id, None)
    run.roles.pop(node_id, None)
    gone = {rank for rank, state in run.ranks.items() if state.info.node_id == node_id}
    for group in run.classes.values():
        group.nodes_with.discard(node_id)
        group.unproven_on.discard(node_id)
        for rank in gone & group.proofs.keys():
            del group.proofs[rank]
        if group.content is not None and not group.nodes_with and not group.is_adopted:
            group.forget_content()
    for device in [device for device, group in run.classes.items() if not _is_used(run, device)]:
        if not run.classes[device].is_adopted:
            del run.classes[device]


def _is_used(run: EngineRun, device: str) -> bool:
    return any(node.device == device for node in run.nodes.values())
