"""One process of an engine: the recorded artifact is placed in it, its compilations are counted, and it reports.

There is one object per process, created by the first hook that fires. An engine's own package derives a class from it,
which says when a rank begins and places what only that engine has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

from ray_warmup.configs import env
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.caches import engine_kinds, placed
from ray_warmup.warmup.caches.placing import Placed, Placing, placing
from ray_warmup.warmup.engines.adapter.contract import EngineContract
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.artifacts.rank_record import CompiledModule, RankRecord, own_pid, write_stage
from ray_warmup.warmup.engines.artifacts.specialisations import (
    COMPILER,
    KERNELS,
    SPECIALISATIONS_NAME,
    SpecialisationRecorder,
    from_bytes,
    preload,
)
from ray_warmup.warmup.engines.plugin import module_provider, remote_lookup
from ray_warmup.warmup.engines.plugin.artifact_search import find_artifact
from ray_warmup.warmup.engines.plugin.counting import CompileCounter
from ray_warmup.warmup.engines.plugin.error_boundary import guarded
from ray_warmup.warmup.engines.plugin.import_hooks import when_imported
from ray_warmup.warmup.engines.plugin.offering import Offer
from ray_warmup.warmup.engines.plugin.rank_start import RankStart
from ray_warmup.warmup.engines.tuning.engine_table import EngineTable, KnownTable, table_of, unserved
from ray_warmup.warmup.messages.recorded import TableProof
from ray_warmup.warmup.signing.policy import cannot_sign
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.table_lease import Holding

logger = logging.getLogger(__name__)

WHEN_CONFIGURED = (*engine_kinds.REWRITTEN_KINDS, *engine_kinds.placed_kinds("when configured"))


class EngineProcess:
    """One process of an engine."""

    def __init__(self, engine: str, contract: EngineContract) -> None:
        self.engine = engine
        self._contract = contract
        self.root = resolve_paths(CacheSection()).root
        self.record_directory = _path(env.read("RAY_WARMUP_RECORD"))
        self.pid = own_pid()
        self._told = self.record_directory or _path(env.read("RAY_WARMUP_PROOF"))
        # Where a launcher listens, the directories are its own and end with the start.
        self._register = None if self._told is not None else placed.register(self.root)
        self._holding: Holding | None = None
        self._offer: Offer | None = None
        self._generation: int | None = None
        self._store: NodeStore | None = None
        self._start: RankStart | None = None
        self._lookup = "not looked up"
        self._placed: dict[str, int] = {}
        self._modules: list[CompiledModule] = []
        self._counter: CompileCounter | None = None
        self.own_seconds = 0.0
        """Time spent in this project's code, without hearing what others compile."""
        self._is_warm = False
        self._kernels = SpecialisationRecorder(self._heard)
        self.table = EngineTable()
        self._known_table: KnownTable | None = None
        self._not_served = "the engine did not look for it"
        """Why the artifact's table is not followed."""

    @property
    def lookup(self) -> str:
        """`hit`, or why nothing was placed."""
        return self._lookup

    @property
    def is_refused(self) -> bool:
        """Return True if this start needs an artifact, as `RAY_WARMUP=require` says, and has found none."""
        return env.read("RAY_WARMUP") == "require" and self.record_directory is None and self._lookup != "hit"

    def compiled_models(self) -> tuple[int, int]:
        """Return how many models the engine has compiled as a whole in this process, and how many it has loaded."""
        return 0, 0

    def begin(self, start: RankStart) -> None:
        """Look for the artifact of this start and place what needs no key of the engine.

        Called once the device is chosen and before the model is loaded.
        """
        self._start = start
        self._say("loading the model")
        if self._told is not None:
            self._counter = CompileCounter(self._heard, self.compiled_models)
            # Before anything is placed or compiled, so that no compilation goes unheard.
            self._counter.install()
        if self.record_directory is not None:
            self._fix_triton_directory(start)
            when_imported(COMPILER, self._hear_kernels)
        else:
            with self._own_time():
                self._find(start)
                self._place_early(start)
            if self._may_be_completed:
                when_imported(COMPILER, self._hear_kernels)
        if self._counter is not None:
            for kind in engine_kinds.TREE_KINDS:
                if kind.placed == "when configured" and kind.name in start.directories:
                    self._counter.watch(kind, start.directories[kind.name])
            self._counter.watch(engine_kinds.TRITON, start.triton_cache)
        self._tell()

    def load_kernels(self) -> None:
        """Load the recorded Triton kernels into this process, before the engine's monitor watches."""
        with self._own_time():
            if self._store is None:
                return
            artifact = self._store.read_artifact(["engine_record"], self._generation)
            rows = [c.data for c in artifact.contents("engine_record") if c.path == SPECIALISATIONS_NAME]
            if rows and rows[0]:
                done = preload(from_bytes(rows[0]))
                self._placed[KERNELS] = done.loaded
                for failure in done.failed:
                    logger.info("ray-warmup: a kernel was not loaded ahead: %s", failure)
        self._tell()

    def place_known_table(self, place: Callable[[KnownTable, Placing], int]) -> None:
        """Place the table of the engine's own calls, if the artifact has one.

        `place` puts it where this process is about to look, and returns the number of its entries there.
        """
        with self._own_time():
            if self._store is None:
                return
            artifact = self._store.read_artifact(("autotune_configs", "recorded_requests"), self._generation)
            known = table_of(artifact)
            if known is None:
                return
            reason = self.table.refusal(known)
            if reason is not None:
                logger.warning(
                    "ray-warmup: the table of this engine's calls is not placed: %s "
                    "-> record again with `ray-warmup run --retune`",
                    reason,
                )
                count, self._not_served = 0, reason
            else:
                with placing(self._register, self._store.directory) as round_:
                    count = place(known, round_)
                self._not_served = "another one is in its place" if not count else ""
            self._placed["autotune_configs"] = count
            # A table that was not placed is not what lookups are compared with.
            self._known_table = known if count else None

    def tune_recorded(self) -> None:
        """Join the tuning of what the engine's forward has asked for, where a launcher conducts one."""
        if not self.is_tuned or self.record_directory is None or self._start is None:
            return
        self._say("waiting to be tuned")
        stacks = self.record_directory / f"rank_{self._start.rank}.stack"
        where = env.read("RAY_WARMUP_TUNE") or ""
        self.table.tune(self._start.rank, self._start.world_size, where, stacks)
        self._say("tuned, capturing graphs")

    @property
    def is_tuned(self) -> bool:
        """Return True if a launcher conducts the tuning of this start."""
        return self.record_directory is not None and env.read("RAY_WARMUP_TUNE") is not None

    def follow_lookups(self) -> bool:
        """Follow every lookup of a start that must prove itself. Returns False where there is nothing to follow."""
        if self._known_table is None or env.read("RAY_WARMUP_PROOF") is None:
            return False
        self.table.watch(self._known_table)
        return True

    def warmed_up(self) -> None:
        """The engine's own warmup has ended in this process."""
        self._is_warm = True
        self._say("warm")
        self._tell()
        self._hand_in()

    def _hear_kernels(self, module: ModuleType) -> None:
        """Record Triton's kernels, without failing the engine's import of it."""
        guarded("hearing Triton's kernels", self._kernels.install, may_require=False)

    def _heard(self) -> None:
        """Report each compilation after the warmup at once, since an engine may be killed at any time."""
        # During the warmup each of thousands of compilations would write the record anew.
        if self._is_warm:
            self._tell()

    def _find(self, start: RankStart) -> None:
        refusal = self._contract.refusal(start.engine_version)
        if refusal:
            self._lookup = refusal
        else:
            found = find_artifact(self.root, self.engine, start, for_proof=self._told is not None)
            if found.store is None and self._told is None:
                self._begin_offer(start)
            self._store, self._lookup = found.store, found.reason or "hit"
        if self._store is None:  # an engine's processes show warnings of other libraries, and nothing below
            logger.warning(
                "ray-warmup: this start compiles for itself: %s -> `ray-warmup run` with its arguments records it",
                self._lookup,
            )

    @property
    def _may_be_completed(self) -> bool:
        """Return True in a proof start of what a serving engine has left: this start's kernels may be added to it."""
        if self._told is None or self._store is None:
            return False
        return self._store.current()[1].strategy == engine_store.OFFERED

    def _begin_offer(self, start: RankStart) -> None:
        """Note what the caches hold now, so that what this engine compiles can be offered when it is warm."""
        is_one_of_many = start.world_size > 1 and not start.engine_name
        if is_one_of_many or cannot_sign() or not remote_lookup.is_offer_wanted():
            return
        self._offer = Offer(
            root=self.root,
            engine_name=start.name_of_engine,
            world_size=start.world_size,
            rank=start.rank,
            identity=start.identity,
            settings=start.settings,
            compile_factors=start.compile_factors,
            triton_cache=start.triton_cache,
        )
        self._offer.begin()
        for kind, directory in start.directories.items():
            self._offer.watch(kind, directory)

    def _hand_in(self) -> None:
        """Offer what this engine compiled, beside its serving."""
        offered, self._offer = self._offer, None
        if offered is not None:
            work = partial(guarded, "offering what was compiled", offered.hand_in, may_require=False)
            threading.Thread(target=work, name="ray-warmup offer", daemon=True).start()

    def _place_early(self, start: RankStart) -> None:
        if self._store is None:
            return
        artifact, lease = self._store.load_artifact(WHEN_CONFIGURED)
        # Held while this process lives: `cache prune` keeps what an engine serves from.
        self._holding, self._generation = Holding(lease), artifact.manifest.generation
        self._fix_triton_directory(start)
        try:
            with placing(self._register, self._store.directory) as round_:
                self._count(round_.triton(artifact.contents("triton_cache"), start.triton_cache), "triton_cache")
                for kind, directory in start.directories.items():
                    if kind in WHEN_CONFIGURED:
                        self._place(round_, kind, artifact, "", directory)
        finally:  # modules lie in the store: a cache that refuses its entries costs none of them
            self._placed["flashinfer_module"] = module_provider.activate(artifact, self._store.directory)

    def _fix_triton_directory(self, start: RankStart) -> None:
        """Say where Triton looks: torch moves an unset directory below the key of a cold compilation."""
        env.export({"TRITON_CACHE_DIR": str(start.triton_cache)})

    def _place(self, round_: Placing, kind: Kind, artifact: Artifact, prefix: str, directory: Path) -> None:
        """Place the contents below a prefix of one kind into a directory."""
        start = f"{prefix}/" if prefix else ""
        below = [content for content in artifact.contents(kind) if content.path.startswith(start)]
        contents = [Content(kind, content.path.removeprefix(start), content.data) for content in below]
        layout = next(row.layout for row in engine_kinds.TREE_KINDS if row.name == kind)
        self._count(round_.tree(layout, contents, directory), kind)

    def _count(self, done: Placed, kind: str) -> None:
        self._placed[kind] = self._placed.get(kind, 0) + len(done.written)

    def _say(self, stage: str) -> None:
        """Write what this rank is at, where a launcher waits for it."""
        if self._told is not None and self._start is not None:
            write_stage(self._told, self._start.rank, stage)

    def _tell(self) -> None:
        """Write the record where a launcher asked for it."""
        directory, start = self._told, self._start
        if directory is None or start is None or self._counter is None:
            return
        pairs = {**start.directories, "triton_cache": start.triton_cache}
        RankRecord(
            rank=start.rank,
            pid=own_pid(),
            identity=start.identity.parts,
            settings=start.settings,
            compile_factors=start.compile_factors,
            places=tuple((kind, str(path)) for kind, path in sorted(pairs.items())),
            modules=tuple(self._modules),
            counts=self._counter.counts().frozen(),
            deaf=dict(self._counter.deaf),
            watched=self._counter.watched(),
            specialisations=tuple((row.function, row.data) for row in self._kernels.seen),
            placed=dict(self._placed),
            lookup=self._lookup,
            own_seconds=self.own_seconds,
            module_requirements=module_provider.describe(),
            is_warm=self._is_warm,
            # Lookups of the forward itself are part of the proof, which is whole only after it.
            table=self.table_proof() if self._is_warm else None,
        ).write(directory)

    def table_proof(self) -> TableProof | None:
        """Return what was looked up, or None where there is no table. One that is not served is a miss, with why."""
        proof = self.table.proof()
        if proof is not None or self._store is None:
            return proof
        data = self._store.read_artifact(("autotune_configs",), self._generation).table
        if data is None:
            return None
        return unserved(data, self._not_served)

    @contextmanager
    def _own_time(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.own_seconds += time.monotonic() - began


def _path(text: str | None) -> Path | None:
    if not text:
        return None
    return Path(text)
