"""Parts of a rank once its device and tasks are known: key, store, files, and its side of the artifact exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey, cache_key
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.device.host_facts import capability_of
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.messages import answers
from ray_warmup.warmup.rank.compiled_work import RankCompilation
from ray_warmup.warmup.rank.delivery import ArtifactExchange
from ray_warmup.warmup.rank.description import describe, outline
from ray_warmup.warmup.rank.notice import Notice
from ray_warmup.warmup.rank.rank_files import RankFiles
from ray_warmup.warmup.rank.rank_setup import ReplayIdentity, compiled_work, open_store, rank_files
from ray_warmup.warmup.rank.rank_workloads import rank_workloads, runnable, within_budget
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.remote.remote_cache import RemoteCache
from ray_warmup.warmup.store.node_paths import NodePaths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Task, Workload, digest_of_tasks, tasks_of
from ray_warmup.warmup.workloads.catalog import check_quantization


@dataclass(frozen=True, slots=True)
class RankSettings:
    """Settings of a rank from the start of its process."""

    info: RankInfo
    config: WarmupConfig
    backend: str
    run_id: str = ""
    """Empty for a rank outside a run, which leaves no notice and no crash record."""
    factory: str = ""
    """Name of the tuner's factory for another process; without one no kernels are shipped."""

    @property
    def keeps_crash_record(self) -> bool:
        """Return True if a successor of this process may read what it ran last."""
        return bool(self.run_id) and self.config.cache.persistent


@dataclass(frozen=True, slots=True)
class ProbedRank:
    """A rank's device, tasks and key, and what follows from the key."""

    settings: RankSettings
    tuner: Tuner
    fingerprint: Fingerprint
    tasks: Mapping[str, Task]
    """By their id."""
    outline: answers.Outlined
    key: CacheKey
    store: NodeStore
    """Of the key, on this node."""
    files: RankFiles
    remote: RemoteCache
    compiled: RankCompilation
    delivery: ArtifactExchange
    notice: Notice

    @property
    def capability(self) -> tuple[int, int] | None:
        """Return the device's compute capability, None on a CPU."""
        return capability_of(self.fingerprint.arch)

    def task(self, task_id: str) -> Task:
        """Return a task by its id. Raises WarmupError for one of another rank."""
        task = self.tasks.get(task_id)
        if task is None:
            raise WarmupError(f"this rank does not run task {task_id}")
        return task

    def describe(self) -> answers.Probed:
        """Describe the rank for the machine, but for what concerns an engine."""
        config, tasks = self.settings.config, tuple(self.tasks.values())
        return describe(config, self.tuner, self.key, self.store.directory, tasks)


def probed_rank(
    settings: RankSettings,
    dims: ModelDims,
    tuner: Tuner,
    paths: NodePaths,
    calls: Sequence[Workload],
    budget_bytes: int | None,
) -> ProbedRank:
    """List the rank's tasks on its device, compute their key and open what belongs to it.

    Args:
        settings: of the rank.
        dims: the model's.
        tuner: on the rank's device.
        paths: of this node.
        calls: what an engine warms besides.
        budget_bytes: memory that a task may need, None for all that is free.

    Raises:
        ConfigError: the model's quantization does not run on the device.
        WarmupError: a workload cannot be made, or the store cannot be opened.
    """
    config, info = settings.config, settings.info
    fingerprint = Fingerprint.of(tuner.describe())
    if (capability := capability_of(fingerprint.arch)) is not None:
        check_quantization(config.model.quantization, capability)
    workloads = rank_workloads(config, dims, info.rank, settings.backend)
    fitting, shrunk = within_budget(workloads, budget_bytes)
    skips = tuner.prepare(fitting, calls)
    tasks = tuple(tasks_of(runnable(fitting, skips)))
    asked = digest_of_tasks(runnable(workloads, skips))  # free memory is another one at every start
    key = cache_key(config, dims, fingerprint, asked)
    store = open_store(config.cache, paths, fingerprint, key)
    who = ReplayIdentity(info.rank, settings.backend, settings.factory, budget_bytes)
    compiled = compiled_work(config, who, tuner, store, key, fingerprint, paths)
    return ProbedRank(
        settings=settings,
        tuner=tuner,
        fingerprint=fingerprint,
        tasks={task.task_id: task for task in tasks},
        outline=outline(config, store.directory, tasks, skips, shrunk),
        key=key,
        store=store,
        files=rank_files(config, store, info),
        remote=RemoteCache(config.cache, store, key.as_dict()),
        compiled=compiled,
        delivery=ArtifactExchange(info, tuner, store, key, fingerprint, tasks, compiled),
        notice=Notice(config, settings.backend, info, settings.run_id, store, key),
    )
