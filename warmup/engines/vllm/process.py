"""One process of vLLM: what only vLLM has, at the moments at which its functions are called.

A hook fires wherever its vLLM function runs, so a process that is front end, core and worker at once needs no special
case. Imports vLLM inside functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.placing import placing
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.artifacts.rank_record import (
    ANY_DEVICE,
    BesideRecord,
    CompiledModule,
    device_name,
    own_pid,
)
from ray_warmup.warmup.engines.plugin.process import EngineProcess
from ray_warmup.warmup.engines.plugin.rank_start import RankStart
from ray_warmup.warmup.engines.vllm.autotune import VllmAutotune
from ray_warmup.warmup.engines.vllm.identity import factors_of_environment, identify, settings_of
from ray_warmup.warmup.engines.vllm.places import places
from ray_warmup.warmup.engines.vllm.versions import VLLM

AT_FIRST_FORWARD = engine_kinds.placed_kinds("at the first forward")


class VllmProcess(EngineProcess):
    """One process of vLLM."""

    def __init__(self) -> None:
        super().__init__("vllm", VLLM)
        self._device_index = ANY_DEVICE
        self._autotune = VllmAutotune(self.table)
        self._facts_found = 0
        self._inspected: list[str] = []

    def compiled_models(self) -> tuple[int, int]:
        """Ahead-of-time files that vLLM compiled and that it loaded."""
        from vllm.compilation.counter import compilation_counter

        return compilation_counter.num_aot_compiles, compilation_counter.num_aot_artifacts_loaded

    def begin_worker(self, vllm_config: Any, worker: Any) -> None:
        """Look for the artifact of this start and place what needs no key of vLLM's."""
        with self._own_time():
            from vllm import envs

            looked = places(Path(envs.VLLM_CACHE_ROOT))
            self._device_index = _device_index(worker)
            start = RankStart(
                rank=int(getattr(worker, "rank", 0)),
                world_size=_replica_size(vllm_config),
                identity=identify(vllm_config),
                settings=settings_of(vllm_config),
                engine_name=str(getattr(vllm_config, "instance_id", "")),
                directories=looked.of_kind(),
                triton_cache=looked.triton_cache,
                compile_factors=factors_of_environment(),
            )
        self.begin(start)

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
            if self._offer is not None:
                self._offer.watch("torch_compile", target.parent, f"{tag}/{device_name(index)}/{target.parent.name}/")
                self._offer.watch("inductor", inductor, f"{tag}/inductor_cache/")
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

    def note_modelinfo(self, file_name: str, *, is_found: bool) -> None:
        """Count a lookup of a model's facts, and report it where a launcher listens."""
        if is_found:
            self._facts_found += 1
        else:
            self._inspected.append(file_name)
        if self._told is not None:
            # Facts are asked for by processes that never become a worker and write no record of a rank.
            inspected = tuple(self._inspected)
            BesideRecord(own_pid(), dict(self._placed), self.own_seconds, self._facts_found, inspected).write(
                self._told
            )

    def _place_modelinfo(self, file_name: str, module_hash: str) -> None:
        import vllm
        from vllm import envs

        if self.record_directory is not None:
            return
        directory = Path(envs.VLLM_CACHE_ROOT) / "modelinfos"
        for store in engine_store.stores(self.root, self.engine, vllm.__version__):
            artifact = engine_store.load(store, ("modelinfos",))
            contents = [c for c in artifact.contents("modelinfos") if c.path == file_name]
            # The first store with the fitting file is enough, since model facts depend on the model's source alone.
            if contents and _source_of(contents[0]) == module_hash:
                with placing(self._register, store.directory) as round_:
                    self._count(round_.tree(engine_kinds.MODELINFOS.layout, contents, directory), "modelinfos")
                return

    def place_table(self, runner: Any) -> None:
        """Put the table of the engine's own calls where vLLM's autotuning is about to look."""
        self.place_known_table(lambda known, round_: self._autotune.place(runner, known, round_))

    def sweep(self, original: Callable[[], None]) -> None:
        """Run vLLM's dummy sweep as this start needs it."""
        self._autotune.sweep(original, records=self.is_tuned)


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
