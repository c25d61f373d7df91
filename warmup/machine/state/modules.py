"""State of a class's FlashInfer modules: missing ones per node, builders, and those that the coordinator holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ray_warmup.warmup.messages.answers import PackedModules
from ray_warmup.warmup.messages.values import Header


@dataclass(slots=True)
class ModuleState:
    """Modules of one class.

    COMPILING keeps it across a lost node too.
    """

    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Node id -> modules that it lacks; a node that was not asked yet, or whose builder died, is absent."""
    in_use: dict[str, str] = field(default_factory=dict)
    """Node id -> the installed set that its ranks use instead of modules of their own."""
    active: dict[int, int] = field(default_factory=dict)
    """Rank -> number of its process that uses its node's set."""
    alone: set[str] = field(default_factory=set)
    """Nodes that build for themselves, because they cannot take what is handed over."""
    ships: bool = True
    """False once nothing can be handed over: every node builds for itself."""
    builders: dict[int, int] = field(default_factory=dict)
    """Rank -> number of its process that builds; what it has begun goes on between two calls."""
    packer: int | None = None
    """The rank that hands over, until what it packed is adopted."""
    offered: frozenset[str] = frozenset()
    """Names of what it was asked for."""
    offer: PackedModules | None = None
    """What it packed."""
    header: Header | None = None
    """The newest modules that the coordinator holds."""
    held: frozenset[str] = frozenset()
    """Names of modules in it; they are never built again."""
    sent: dict[str, frozenset[str]] = field(default_factory=dict)
    """Node id -> names of what it was sent last."""
    built: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Rank -> modules that it compiled."""
    received: list[str] = field(default_factory=list)
    """Nodes that took modules over."""

    def begin_again(self) -> None:
        """Ask every node anew after a node loss.

        Installed and adopted modules stay.
        """
        self.missing.clear()
        self.alone.clear()
        self.ships = True
        self.packer = self.offer = None

    def give_up_shipping(self) -> None:
        """Let every node build its missing modules.

        Those that were adopted before are still installed.
        """
        self.ships = False
        self.packer = self.offer = None

    def adopt(self) -> None:
        """Record that the coordinator holds the offered modules."""
        assert self.offer is not None, "an adopted offer was made"
        self.header, self.held = self.offer.header, self.held | self.offered | frozenset(self.offer.names)
        self.packer = self.offer = None

    def advance(self, rank: int, process: int, node: str, built: Sequence[str], missing: Sequence[str]) -> None:
        """Record a builder's finished modules.

        Its process continues with the missing ones.
        """
        self.missing[node] = tuple(missing)
        self.built[rank] = (*self.built.get(rank, ()), *built)
        if missing:
            self.builders[rank] = process
        else:
            self.builders.pop(rank, None)
