"""Find the recorded artifact in one engine process, place each kind, count compilations, and report.

There is one object per process, created by the first hook that fires. A hook fires wherever its vLLM function runs, so
a process that is front end, core and worker at once needs no special case. Imports vLLM inside functions.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.caches import engine_kinds, placed
from ray_warmup.warmup.caches.placing import Placed, Placing, placing
from ray_warmup.warmup.engines import engine_store
from ray_warmup.warmup.engines.tuning.engine_table import KnownTable, table_of
from ray_warmup.warmup.engines.vllm import module_provider, versions
from ray_warmup.warmup.engines.vllm.autotune import VllmAutotune
from ray_warmup.warmup.engines.vllm.counting import CompileCounter
from ray_warmup.warmup.engines.vllm.identity import Identity, factors_of_environment, identify, settings_of
from ray_warmup.warmup.engines.vllm.places import Places, places
from ray_warmup.warmup.engines.vllm.rank_record import (
    ANY_DEVICE,
    BesideRecord,
    CompiledModule,
    RankRecord,
    device_name,
    own_pid,
    write_stage,
)
from ray_warmup.warmup.engines.vllm.specialisations import (
    SPECIALISATIONS_NAME,
    SpecialisationRecorder,
    from_bytes,
    preload,
)
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.table_lease import Holding

logger = logging.getLogger(__name__)

ENGINE = "vllm"
WHEN_CONFIGURED = (*engine_kinds.REWRITTEN_KINDS, *engine_kinds.placed_kinds("when configured"))
AT_FIRST_FORWARD = engine_kinds.placed_kinds("at the first forward")


class EngineProcess:
    """One process of an engine."""

    def __init__(self) -> None:
        self.root = resolve_paths(CacheSection()).root
        self.record_directory = _path(env.read("RAY_WARMUP_RECORD"))
        self.pid = own_pid()
        self._told = self.record_directory or _path(env.read("RAY_WARMUP_PROOF"))
        # Where a launcher listens, the directories are its own and end with the start.
        self._register = None if self._told is not None else placed.register(self.root)
        self._holding: Holding | None = None
        self._generation: int | None = None
        self._settings: dict[str, str] = {}
        self._store: NodeStore | None = None
        self._identity: Identity | None = None
        self._places: Places | None = None
        self._rank = 0
        self._device_index = -1
        self._lookup = "not looked up"
        self._placed: dict[str, int] = {}
        self._modules: list[CompiledModule] = []
        self._counter: CompileCounter | None = None
        self.own_seconds = 0.0
        """Time spent in this project's code, without hearing what others compile."""
        self._is_warm = False
        self._kernels = SpecialisationRecorder(self._heard)
        self._autotune = VllmAutotune()
        self._known_table: KnownTable | None = None
        self._world_size = 1

    def begin_worker(self, vllm_config: Any, worker: Any) -> None:
        """Look for the artifact of this start and place what needs no key of the engine.

        Called once the device is chosen and before the model is loaded.
        """
        with self._own_time():
            from vllm import envs

            self._rank = int(getattr(worker, "rank", 0))
            self._world_size = _replica_size(vllm_config)
            self._device_index = _device_index(worker)
            self._identity = identify(vllm_config)
            self._settings = settings_of(vllm_config)
            self._places = places(Path(envs.VLLM_CACHE_ROOT))
            self._say("loading the model")
        if self._told is not None:
            self._counter = CompileCounter(self._heard)
            # Before anything is placed or compiled, so that no compilation goes unheard.
            self._counter.install()
        if self.record_directory is not None:
            self._fix_triton_directory()
            self._kernels.install()
        else:
            with self._own_time():
                self._find()
                self._place_early()
        if self._counter is not None:
            for kind in (engine_kinds.DEEP_GEMM, engine_kinds.TRTLLM_DEEP_GEMM, engine_kinds.INDUCTOR_HOME):
                self._counter.watch(kind, self._places.of_kind()[kind.name])
            self._counter.watch(engine_kinds.TRITON, self._places.triton_cache)
        self._tell()

    def place_compiled(self, model: Any, path: str) -> None:
        """Put the ahead-of-time file and Inductor's cache where this start is about to look."""
        with self._own_time():
            from vllm.compilation import decorators

            self._say("compiling the model")
            target = Path(path)
            # The layout is vLLM's own, which has no function that names this directory.
            inductor = target.parents[1] / "inductor_cache"
            # A private function, because vLLM names the ahead-of-time file by it and has no public one.
            tag = decorators._model_hash_key(model.forward)
            is_index_free = env.read("TORCH_COMPILE_ON_ONE_RANK") == "1"
            index = ANY_DEVICE if is_index_free else self._device_index
            self._modules.append(CompiledModule(tag, path, target.parent.name, index))
            if self._store is not None:
                artifact = self._store.read_artifact(AT_FIRST_FORWARD, self._generation)
                with placing(self._register, self._store.directory) as round_:
                    # An artifact may hold files baked for one device index beside those for any.
                    for device in (device_name(ANY_DEVICE), device_name(self._device_index)):
                        prefix = f"{tag}/{device}/{target.parent.name}"
                        self._place(round_, "torch_compile", artifact, prefix, target.parent)
                    self._place(round_, "inductor", artifact, f"{tag}/inductor_cache", inductor)
        if self._counter is not None:
            self._counter.watch(engine_kinds.INDUCTOR, inductor)
        self._tell()

    def place_modelinfo(self, file_name: str, module_hash: str) -> None:
        """Put the one file that vLLM is about to look for in place, from any artifact of this version.

        `module_hash` is vLLM's digest of the model's source: facts of another source are not placed.
        """
        with self._own_time():
            self._place_modelinfo(file_name, module_hash)
        if self._told is not None:
            # Model facts are asked for by processes that never become a worker and write no record of a rank.
            BesideRecord(own_pid(), dict(self._placed), self.own_seconds).write(self._told)

    def _place_modelinfo(self, file_name: str, module_hash: str) -> None:
        import vllm
        from vllm import envs

        if self.record_directory is not None:
            return
        directory = Path(envs.VLLM_CACHE_ROOT) / "modelinfos"
        for store in engine_store.stores(self.root, ENGINE, vllm.__version__):
            artifact = engine_store.load(store, ("modelinfos",))
            contents = [c for c in artifact.contents("modelinfos") if c.path == file_name]
            # The first store with the fitting file is enough, since model facts depend on the model's source alone.
            if contents and _source_of(contents[0]) == module_hash:
                with placing(self._register, store.directory) as round_:
                    self._count(round_.tree(engine_kinds.MODELINFOS.layout, contents, directory), "modelinfos")
                return

    def load_kernels(self) -> None:
        """Load the recorded Triton kernels into this process, before the engine's monitor watches."""
        with self._own_time():
            if self._store is None:
                return
            artifact = self._store.read_artifact(["engine_record"], self._generation)
            rows = [c.data for c in artifact.contents("engine_record") if c.path == SPECIALISATIONS_NAME]
            if rows and rows[0]:
                done = preload(from_bytes(rows[0]))
                self._placed["triton_kernels"] = done.loaded
                for failure in done.failed:
                    logger.info("ray-warmup: a kernel was not loaded ahead: %s", failure)
        self._tell()

    def place_table(self, runner: Any) -> None:
        """Put the table of the engine's own calls where vLLM's autotuning is about to look."""
        with self._own_time():
            if self._store is None:
                return
            artifact = self._store.read_artifact(("autotune_configs", "recorded_requests"), self._generation)
            known = table_of(artifact)
            if known is not None:
                with placing(self._register, self._store.directory) as round_:
                    count = self._autotune.place(runner, known, round_)
                self._placed["autotune_configs"] = count
                # A table that was not placed is not what lookups are compared with.
                self._known_table = known if count else None

    def sweep(self, original: Callable[[], None]) -> None:
        """Run vLLM's dummy sweep as this start needs it."""
        self._autotune.sweep(original, records=self._tuning is not None)

    def tune_recorded(self) -> None:
        """Join the tuning of what the sweep has asked for, where a launcher conducts one."""
        if self._tuning is None or self.record_directory is None:
            return
        self._say("waiting to be tuned")
        stacks = self.record_directory / f"rank_{self._rank}.stack"
        self._autotune.table.tune(self._rank, self._world_size, self._tuning, stacks)
        self._say("tuned, capturing graphs")

    def follow_lookups(self) -> None:
        """Follow every lookup of a start that must prove itself."""
        if self._known_table is not None and env.read("RAY_WARMUP_PROOF") is not None:
            self._autotune.table.watch(self._known_table)

    def warmed_up(self) -> None:
        """The engine's own warmup has ended in this process."""
        self._is_warm = True
        self._say("warm")
        self._tell()

    def _heard(self) -> None:
        """Report each compilation after the warmup at once, since an engine may be killed at any time."""
        # During the warmup each of thousands of compilations would write the record anew.
        if self._is_warm:
            self._tell()

    @property
    def lookup(self) -> str:
        """`hit`, or why nothing was placed."""
        return self._lookup

    def _find(self) -> None:
        assert self._identity is not None
        version = self._identity.as_dict()["engine_version"]
        refusal = versions.refusal(version)
        if refusal:
            self._lookup = refusal
        else:
            found = engine_store.find(
                self.root, ENGINE, version, self._identity.parts, self._identity.sha256, self._settings
            )
            self._store, self._lookup = found.store, found.reason or "hit"
        if self._store is None:  # vLLM's processes show warnings of other libraries, and nothing below
            logger.warning("ray-warmup: this start compiles for itself: %s", self._lookup)

    def _place_early(self) -> None:
        if self._store is None:
            return
        assert self._places is not None
        artifact, lease = self._store.load_artifact(WHEN_CONFIGURED)
        # Held while this process lives: `cache prune` keeps what an engine serves from.
        self._holding, self._generation = Holding(lease), artifact.manifest.generation
        self._fix_triton_directory()
        try:
            with placing(self._register, self._store.directory) as round_:
                self._count(round_.triton(artifact.contents("triton_cache"), self._places.triton_cache), "triton_cache")
                for kind, directory in self._places.of_kind().items():
                    if kind in WHEN_CONFIGURED:
                        self._place(round_, kind, artifact, "", directory)
        finally:  # modules lie in the store: a cache that refuses its entries costs none of them
            self._placed["flashinfer_module"] = module_provider.activate(artifact, self._store.directory)

    def _fix_triton_directory(self) -> None:
        """Say where Triton looks: torch moves an unset directory below the key of a cold compilation."""
        assert self._places is not None
        env.export({"TRITON_CACHE_DIR": str(self._places.triton_cache)})

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
        """Write what this worker is at, where a launcher waits for it."""
        if self._told is not None:
            write_stage(self._told, self._rank, stage)

    @property
    def _tuning(self) -> str | None:
        """Return the address at which a launcher conducts the tuning of this start, or None."""
        if self.record_directory is None:
            return None
        return env.read("RAY_WARMUP_TUNE")

    def _tell(self) -> None:
        """Write the record where a launcher asked for it."""
        directory = self._told
        if directory is None or self._identity is None or self._places is None or self._counter is None:
            return
        pairs = {**self._places.of_kind(), "triton_cache": self._places.triton_cache}
        RankRecord(
            rank=self._rank,
            pid=own_pid(),
            identity=self._identity.parts,
            settings=self._settings,
            compile_factors=factors_of_environment(),
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
            # Lookups of the sweep itself are part of the proof, which is whole only after it.
            table=self._autotune.table.proof() if self._is_warm else None,
        ).write(directory)

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


def _replica_size(vllm_config: Any) -> int:
    """Return the number of ranks of one replica: tensor times pipeline parallel size."""
    parallel = vllm_config.parallel_config
    return int(parallel.tensor_parallel_size) * int(parallel.pipeline_parallel_size)


def _device_index(worker: Any) -> int:
    """Return the CUDA device index of a worker, ANY_DEVICE on a processor."""
    index = getattr(getattr(worker, "device", None), "index", None)
    if index is None:
        return ANY_DEVICE
    return int(index)


def _source_of(modelinfo: Content) -> str:
    """Return the digest of the model's source that a file of model facts names, empty for a file that is none."""
    try:
        document = json.loads(bytes(modelinfo.data))
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    return str(document.get("hash", ""))
