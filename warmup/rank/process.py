"""What one rank does, phase by phase, on its own device and its own node's store. Knows nothing of Ray.

Leader, writer and follower are this one class: what a rank is asked to do makes the difference. Methods
take and return plain JSON values (blobs apart) and raise `WarmupError`; `status` may be called from
another thread at any time, every other method runs on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_warmup.configs import env
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.artifact.cache_key import CacheKey, cache_key
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.quarantine import believed, entries_of
from ray_warmup.warmup.artifact.rows import ReadRows
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.device.factory import TunerFactory
from ray_warmup.warmup.device.host_facts import capability_of
from ray_warmup.warmup.device.memory_budget import fit_buckets
from ray_warmup.warmup.device.tuner import Tuner, Watch
from ray_warmup.warmup.disk.trust import believe
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.rank.black_box import box_path
from ray_warmup.warmup.rank.compiled_work import CompiledWork
from ray_warmup.warmup.rank.delivery import Delivery
from ray_warmup.warmup.rank.description import NO_TASKS, NOTHING, describe, outline
from ray_warmup.warmup.rank.engine import RankEngine
from ray_warmup.warmup.rank.files import RankFiles
from ray_warmup.warmup.rank.notice import Notice
from ray_warmup.warmup.rank.opening import (
    FreshRank,
    compiled_work,
    open_store,
    rank_files,
    tuner_options,
    workspace_is_made,
)
from ray_warmup.warmup.rank.packing import lineage_of
from ray_warmup.warmup.rank.record import RankRecord
from ray_warmup.warmup.rank.workloads import rank_workloads, runnable
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.node_paths import NodePaths, flashinfer_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Choice, Task, TaskResult, digest_of_tasks, freeze, tasks_of
from ray_warmup.warmup.workloads.catalog import check_quantization

BEFORE_COMPILING = ("lookup", "sees", "recall_table", "recall_finished")
"""While these are asked, other nodes look for this rank's marker."""
Quarantine = Sequence[dict[str, str]]
"""Tactics that must not run: op, runner, tactic as JSON."""
"""Backend (`cuda` or `cpu`) and options -> the process' tuner."""


class RankProcess:
    """One rank. `probe` comes first and prepares everything else."""

    def __init__(
        self,
        info: RankInfo,
        config: WarmupConfig,
        backend: str,
        make_tuner: TunerFactory,
        run_id: str = "",
        factory: str = "",
    ) -> None:
        """`factory` names `make_tuner` as `module:function` for a process of its own; without it no kernels ship."""
        self.info = info
        self._run_id = run_id
        self._record = RankRecord()
        self._kept_away: tuple[tuple[str, str, str], ...] = ()
        self._config = config
        self._backend = backend
        self._make_tuner = make_tuner
        self._factory = factory
        self._dims: ModelDims
        self._tuner: Tuner
        self._key: CacheKey
        self._fingerprint: Fingerprint
        self._store: NodeStore
        self._files: RankFiles
        self._compiled: CompiledWork
        self._delivery: Delivery
        self._notice: Notice
        self._loaded: str | None = None
        self._engine: RankEngine
        self._tasks: dict[str, Task] = {}
        self._outline = NO_TASKS

    def probe(self, budget_bytes: int | None = None, modules: str | None = None) -> dict[str, Any]:
        """Import what the device needs, find the tasks (those within a memory budget), and describe this process.

        `modules` is a set that this rank's predecessor already used.
        Returns `key`, `parts`, `directory`, `device`, `backend`, `memory`, `warnings`; `outline` has the tasks.
        """
        with self._busy("probe"):
            believe(self._config.cache)
            self._dims = dimensions_of(self._config)
            self._engine = RankEngine(self._config, self._dims, self.info.rank, self._backend, self._warms)
            paths = resolve_paths(self._config.cache)
            env.export(flashinfer_environment(paths))
            if not self._config.autotune.is_enabled:
                return self._described(NOTHING)
            with workspace_is_made(paths.workspace):
                self._tuner = self._make_tuner(self._backend, tuner_options(self._config))
            self._fingerprint = Fingerprint.of(self._tuner.describe())
            if (capability := capability_of(self._fingerprint["arch"])) is not None:
                check_quantization(self._config.model.quantization, capability)
            workloads = rank_workloads(self._config, self._dims, self.info.rank, self._backend)
            fitting, shrunk = (workloads, ()) if budget_bytes is None else fit_buckets(workloads, budget_bytes)
            skips = self._tuner.prepare(fitting, self._engine.calls())
            self._tasks = {task.task_id: task for task in tasks_of(runnable(fitting, skips))}
            asked = digest_of_tasks(runnable(workloads, skips))  # free memory is another one at every start
            self._key = cache_key(self._config, self._dims, self._fingerprint, asked)
            self._store = open_store(self._config.cache, paths, self._fingerprint, self._key)
            self._files = rank_files(self._config, self._store, self.info)
            self._prepare_delivery(paths, budget_bytes)
            if self._config.cache.persistent and (self._run_id or modules is not None):
                self._delivery.hold_store()  # what a run has there, also that of a process that this one replaces
            if modules is not None:
                self._compiled.activate(modules)
            if self._run_id and self._config.cache.persistent:
                box = box_path(self._store.directory, self._run_id, self.info.rank)
                self._record.open(box, self._config.cache.dir_mode)
            self._tuner.listen(self._record.tactic)
            self._notice = Notice(self._config, self._backend, self.info, self._run_id, self._store, self._key)
            self._notice.renew()
            tunes = self._engine.tunes(capability_of(self._fingerprint["arch"]))
            directory, tasks = self._store.directory, tuple(self._tasks.values())
            self._outline = outline(self._config, directory, tasks, skips, shrunk)
            about = describe(self._config, self._tuner, self._key, directory, tasks)
            return self._described(about | {"tunes_engine": tunes})

    def outline(self) -> dict[str, Any]:
        """What every rank of this rank's class would answer: `tasks`, `skips`, and what a budget has `shrunk`."""
        with self._busy("outline"):
            return self._outline

    def lookup(self, token: str, retune: bool) -> dict[str, Any]:
        """What this node's store has for the key; leaves a marker by which other nodes recognise the directory.

        Digests only: `recall_table` and `recall_finished` have the rows.
        """
        with self._busy("lookup"):
            banned = believed(self._store.load_quarantine())
            quarantine = [encode(ban) for ban in banned.rows]
            self._tuner.keep_away(entries_of(quarantine))
            found = self._store.lookup(self._key.as_dict(), check=self._tuner.check)
            problems = [self._files.leave_marker(token), self._notice.begin()]
            if self._config.cache.persistent:
                self._delivery.hold_store()
            finished: ReadRows[TaskResult] = ReadRows() if retune else self._files.finished(self._tasks)
            refused = (*banned.warnings("quarantine"), *finished.warnings("finished tasks of earlier runs"))
            answer: dict[str, Any] = {
                "hit": found.hit,
                "reason": found.reason,
                "guarded": found.guarded,
                "recorded_at": found.recorded_at,
                "lineage": lineage_of(found.manifest),
                "now": time.time(),
                "digest": None,
                "artifact": None,
                "blobs": 0,
                "finished": self._files.finished_digest(),
                "quarantine": quarantine,
                "warnings": [*found.warnings, *(problem for problem in problems if problem), *refused],
            }
            if found.hit and found.manifest is not None and found.table is not None:
                known = self._delivery.found(found.manifest, found.table)
                answer["warnings"] += known.pop("refused", [])
                answer |= known
            elif found.hit:
                answer |= {"hit": False, "reason": "the stored artifact says that nothing was tunable"}
            return answer

    def recall_table(self) -> dict[str, Any]:
        """The rows of the table that `lookup` found: `header`, `results`, `verdicts`, `tuned`."""
        with self._busy("recall_table"):
            return self._delivery.recall()

    def recall_finished(self) -> dict[str, Any]:
        """The tasks that earlier runs finished here, as `lookup` found them."""
        with self._busy("recall_finished"):
            return {"partial": self._files.recalled()}

    def sees(self, tokens: list[str]) -> dict[str, Any]:
        """The first of these markers that is in this node's directory; its own is among them."""
        with self._busy("sees"):
            return {"tokens": list(islice(filter(self._store.sees_marker, tokens), 1))}

    def survey(self, tunes: bool = False) -> dict[str, Any]:
        """Which modules this node lacks, once what its store has compiled is in place; `tunes`: it will measure."""
        with self._busy("survey"):
            return self._compiled.survey(tunes)

    def compile(self) -> dict[str, Any]:
        """Build what this node lacks until something more is done, on the CPUs of all its ranks: the others wait."""
        with self._busy("compile"):
            jobs = max(1, int(self._config.cluster.cpus_per_rank * self.info.local_world_size))
            return self._compiled.compile(jobs, self._record.progress)

    def hand_over(self, modules: str | None = None) -> dict[str, Any]:
        """The modules that this node has, packed for the nodes that lack them; `modules` is a set that it uses."""
        with self._busy("hand_over"):
            if modules is not None:
                self._compiled.activate(modules)
            return self._compiled.hand_over()

    def take(self, header: dict[str, Any], blobs: Mapping[str, Blob]) -> dict[str, Any]:
        """Install the modules of another node and use them."""
        with self._busy("take"):
            return self._compiled.take(header, blobs)

    def activate(self, modules: str) -> dict[str, Any]:
        """Use a set of modules that another rank installed on this node."""
        with self._busy("activate"):
            return {"active": self._compiled.activate(modules)}

    def tune(self, task_id: str, quarantine: Quarantine = (), packs: bool = False) -> dict[str, Any]:
        """Measure one task. `packs`: this rank will be asked to pack what the class finds."""
        with self._busy("tune", task_id):
            self._compiled.start_tuning()
            self._prepare(quarantine, packs)
            result = self._tuner.tune(self._task(task_id)).to_json()
            result |= {"rank": self.info.rank, "gpu": self._tuner.device()}
            self._files.keep_result(result)
            return result

    def measure(self, task_id: str, shortlist: list[list[Any]], quarantine: Quarantine = ()) -> dict[str, Any]:
        """Measure given candidates of one task again; this rank's vote under `consensus`."""
        with self._busy("measure", task_id):
            self._keep_away(quarantine)
            choices = [Choice(runner, freeze(tactic)) for runner, tactic in shortlist]
            return self._tuner.measure(self._task(task_id), choices).to_json() | {"rank": self.info.rank}

    def guard(
        self, task_id: str, result: dict[str, Any], quarantine: Quarantine = (), packs: bool = False
    ) -> dict[str, Any]:
        """Check one task's winner against the default tactic. `packs` as in `tune`."""
        with self._busy("guard", task_id):
            self._prepare(quarantine, packs)
            verdict = self._tuner.guard(self._task(task_id), TaskResult.from_json(result))
            return verdict.to_json() | {"rank": self.info.rank}

    def tune_engine(self) -> dict[str, Any]:
        """Tune what only an engine's own step reaches, for the class: files to be packed with the table."""
        with self._busy("tune_engine"), TemporaryDirectory(prefix="ray-warmup-tune-") as scratch:
            return self._engine.tune(Path(scratch), capability_of(self._fingerprint["arch"]))

    def pack(
        self,
        results: list[dict[str, Any]],
        verdicts: list[dict[str, Any]],
        strategy: str,
        guarded: bool,
        tuned: Sequence[dict[str, str]] = (),
        after: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Results, verdicts and what an engine's step tuned as one artifact, kept here until its blobs are fetched.

        `after`: the artifact that it replaces, as some rank's `lookup` told it.
        """
        with self._busy("pack"):
            return self._delivery.pack(results, verdicts, strategy, guarded, tuned, after)

    def pack_stored(self, renew: bool = False) -> dict[str, Any]:
        """The artifact that `lookup` found, for the nodes that lack it; a replacement reads it from the store.

        `renew`: with what is compiled on this node now in place of what the artifact had.
        """
        with self._busy("pack_stored"):
            return self._delivery.pack_stored(renew)

    def blob(self, digest: str) -> Blob:
        """One blob of what was packed here."""
        for artifact in (self._delivery.artifact, self._compiled.artifact):
            if artifact is not None and digest in artifact.blobs:
                return artifact.blobs[digest]
        raise StoreError(f"blob {digest[:16]} is not part of the packed artifact")

    def wanted(self, method: str, header: dict[str, Any], digests: Sequence[str]) -> list[str]:
        """Which of the blobs that are on offer this rank needs for a method; takes no lock."""
        if method == "take":
            return list(digests) if self._compiled.missing() else []
        return self._delivery.wanted(method, header, digests)

    def install(self, header: dict[str, Any], blobs: Mapping[str, Blob]) -> dict[str, Any]:
        """Check everything that was pushed, then publish it on this node.

        A disk that refuses is answered with `degraded`; bytes that are not what they should be raise.
        """
        with self._busy("install"):
            return self._delivery.install(header, blobs)

    def load(self, digest: str, header: dict[str, Any] | None, blobs: Mapping[str, Blob] | None) -> dict[str, Any]:
        """Load the class's table from this node's file, or from memory when blobs come along, and prove every hit."""
        with self._busy("load"):
            self._loaded = None
            answer = self._delivery.load(digest, header, blobs)
            self._loaded = answer["digest"]
            return answer

    def replay(self) -> dict[str, Any]:
        """Run every task once, so that the first request finds nothing to build."""
        with self._busy("replay"):
            if not self._config.autotune.is_enabled:
                return {"calls": 0, "failed": []}
            outcome = self._tuner.replay(tuple(self._tasks.values())).to_json()
            return outcome | {"peak_bytes": self._tuner.memory().get("peak", 0)}

    def warm(self, left_out: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Run what an engine warms at start-up, then requests that check that nothing is left to compile."""
        with self._busy("warm"):
            return self._engine.warm(left_out or {})

    def confirm(self) -> dict[str, Any]:
        """The last question before a run is called ready: which table does the device hold now?"""
        with self._busy("confirm"):
            return dict.fromkeys(("digest", "stored")) if self._loaded is None else self._delivery.holds()

    def conclude(self, verdict: dict[str, Any] | None, ranks: Sequence[int] = ()) -> dict[str, Any]:
        """Keep how the run ended, for those who ask without Ray: beside the table, and for the class's `ranks` on this
        node in its index. Without a verdict another node writes it into the same directory. May run beside a phase."""
        if not hasattr(self, "_notice"):
            return {"problem": None}  # nothing was tuned, so nobody asks for a table
        return {"problem": self._notice.conclude(verdict, self._delivery.loaded_sha256, ranks)}

    def status(self) -> dict[str, Any]:
        """What this rank does now and for how long, for the heartbeat; takes no lock and calls no device."""
        watch = self._tuner.watch() if hasattr(self, "_tuner") else Watch()
        return self._record.status() | {"op": watch.op, "runner": watch.runner, "tactic": watch.tactic}

    def close(self) -> None:
        """Remove what this rank left on disk for this run only."""
        self._record.close()
        self._tidy()
        if hasattr(self, "_delivery"):
            self._delivery.release()
            self._compiled.close()

    def _warms(self, name: str) -> None:
        """An engine warmup begins."""
        self._record.begin("warm", name)

    def _tidy(self) -> None:
        if hasattr(self, "_files"):
            self._files.remove_marker()

    def _described(self, about: dict[str, Any]) -> dict[str, Any]:
        return about | {"backend": self._backend, "last_words": self._record.last_words}

    def _prepare_delivery(self, paths: NodePaths, budget_bytes: int | None) -> None:
        if hasattr(self, "_delivery"):
            self._delivery.release()
        who = FreshRank(self.info.rank, self._backend, self._factory, budget_bytes)
        self._compiled = compiled_work(self._config, who, self._tuner, self._store, self._key, self._fingerprint, paths)
        tasks = tuple(self._tasks.values())
        self._delivery = Delivery(
            self.info, self._tuner, self._store, self._key, self._fingerprint, tasks, self._compiled
        )

    @contextmanager
    def _busy(self, method: str, task_id: str = "") -> Iterator[None]:
        if method not in BEFORE_COMPILING:
            self._tidy()
        self._record.begin(method, task_id)
        try:
            yield
        finally:
            self._record.end()

    def _prepare(self, quarantine: Quarantine, packs: bool) -> None:
        self._keep_away(quarantine)
        if packs:
            self._compiled.expect_collect()

    def _keep_away(self, quarantine: Quarantine) -> None:
        """Measure none of these tactics, and keep them beside the table for the next run."""
        entries = entries_of(quarantine)
        if not entries or entries == self._kept_away:
            return
        self._kept_away = entries
        self._tuner.keep_away(entries)
        self._files.keep_quarantine([dict(entry) for entry in quarantine])

    def _task(self, task_id: str) -> Task:
        task = self._tasks.get(task_id)
        if task is None:
            raise WarmupError(f"this rank does not run task {task_id}")
        return task
