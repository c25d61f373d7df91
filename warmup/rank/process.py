"""One rank on its own device and its own node's store, phase by phase. Knows nothing of Ray.

Leader, writer and follower are this one class: the questions make the difference (`warmup/rank/answering.py` finds the
method for each). Methods return answers and raise `WarmupError`. `status` may be called from another thread at any
time, every other method runs on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from ray_warmup.configs import env
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.artifact import Artifact, Blob
from ray_warmup.warmup.artifact.cache_key import CacheKey, cache_key
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.quarantine import valid_quarantine_rows
from ray_warmup.warmup.artifact.rows import ReadRows
from ray_warmup.warmup.caches.workspace import check_code_caches
from ray_warmup.warmup.device.factory import TunerFactory
from ray_warmup.warmup.device.host_facts import capability_of
from ray_warmup.warmup.device.tuner import Tuner, TunerOptions, Watch
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.values import Header, Heartbeat
from ray_warmup.warmup.rank.activity import RankActivity
from ray_warmup.warmup.rank.compiled_work import RankCompilation
from ray_warmup.warmup.rank.crash_recorder import crash_record_path
from ray_warmup.warmup.rank.delivery import ArtifactExchange
from ray_warmup.warmup.rank.description import describe, outline
from ray_warmup.warmup.rank.engine import RankEngine
from ray_warmup.warmup.rank.notice import Notice
from ray_warmup.warmup.rank.packing import ancestor_of
from ray_warmup.warmup.rank.rank_files import RankFiles
from ray_warmup.warmup.rank.rank_setup import (
    ReplayIdentity,
    compiled_work,
    open_store,
    rank_files,
    workspace_is_made,
)
from ray_warmup.warmup.rank.rank_workloads import rank_workloads, runnable, within_budget
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.remote.remote_cache import RemoteCache
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_paths import NodePaths, flashinfer_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import TacticId, Task, TaskResult, digest_of_tasks, tasks_of
from ray_warmup.warmup.workloads.catalog import check_quantization

BEFORE_COMPILING = tuple(
    map(questions.name_of, (questions.LookUp, questions.FindMarkers, questions.RecallTable, questions.RecallFinished))
)
"""While these are asked, other nodes look for this rank's marker."""


class RankProcess:
    """One rank. `probe` comes first and prepares everything else, `key` and its `store` on this node included."""

    def __init__(
        self,
        info: RankInfo,
        config: WarmupConfig,
        backend: str,
        make_tuner: TunerFactory,
        run_id: str = "",
        factory: str = "",
    ) -> None:
        """Keep the arguments. `factory` names `make_tuner` for another process, none ships no kernels."""
        self.info = info
        self._run_id = run_id
        self._record = RankActivity()
        self._kept_away: tuple[TacticId, ...] = ()
        self._config = config
        self._backend = backend
        self._make_tuner = make_tuner
        self._factory = factory
        self._dims: ModelDims
        self._tuner: Tuner
        self.key: CacheKey
        self._fingerprint: Fingerprint
        self.store: NodeStore
        self._files: RankFiles
        self._remote: RemoteCache
        self._compiled: RankCompilation
        self._delivery: ArtifactExchange
        self._notice: Notice
        self._loaded: str | None = None
        self._engine: RankEngine
        self._tasks: dict[str, Task] = {}
        self._outline = answers.Outlined()

    def probe(self, budget_bytes: int | None = None, modules: str | None = None) -> answers.Probed:
        """Import what the device needs, find the tasks (those within a memory budget), and describe this process.

        `modules` is a set that this rank's predecessor already used.
        """
        with self._busy("probe"):
            believe(self._config.cache)
            self._dims = dimensions_of(self._config)
            self._engine = RankEngine(self._config, self._dims, self.info.rank, self._backend, self._warms)
            paths = resolve_paths(self._config.cache)
            env.export(flashinfer_environment(paths))
            if not self._config.autotune.is_enabled:
                return self._described(answers.Probed())
            check_code_caches(paths.workspace, env.snapshot(), Path(env.read("HOME") or paths.root))
            with workspace_is_made(paths.workspace):
                self._tuner = self._make_tuner(self._backend, TunerOptions(self._config.autotune, self._config.guard))
            self._fingerprint = Fingerprint.of(self._tuner.describe())
            if (capability := capability_of(self._fingerprint.arch)) is not None:
                check_quantization(self._config.model.quantization, capability)
            workloads = rank_workloads(self._config, self._dims, self.info.rank, self._backend)
            fitting, shrunk = within_budget(workloads, budget_bytes)
            skips = self._tuner.prepare(fitting, self._engine.calls())
            self._tasks = {task.task_id: task for task in tasks_of(runnable(fitting, skips))}
            asked = digest_of_tasks(runnable(workloads, skips))  # free memory is another one at every start
            self.key = cache_key(self._config, self._dims, self._fingerprint, asked)
            self.store = open_store(self._config.cache, paths, self._fingerprint, self.key)
            self._files = rank_files(self._config, self.store, self.info)
            self._remote = RemoteCache(self._config.cache, self.store, self.key.as_dict())
            self._prepare_delivery(paths, budget_bytes)
            if self._config.cache.persistent and (self._run_id or modules is not None):
                self._delivery.hold_store()  # what a run has there, also that of a process that this one replaces
            if modules is not None:
                self._compiled.activate(modules)
            if self._run_id and self._config.cache.persistent:
                path = crash_record_path(self.store.directory, self._run_id, self.info.rank)
                self._record.open(path, self._config.cache.dir_mode)
            self._tuner.listen(self._record.tactic)
            self._notice = Notice(self._config, self._backend, self.info, self._run_id, self.store, self.key)
            self._notice.renew()
            tunes = self._engine.tunes(capability_of(self._fingerprint.arch))
            directory, tasks = self.store.directory, tuple(self._tasks.values())
            self._outline = outline(self._config, directory, tasks, skips, shrunk)
            about = describe(self._config, self._tuner, self.key, directory, tasks)
            return self._described(replace(about, tunes_engine=tunes))

    def outline(self) -> answers.Outlined:
        """Return what all ranks of this rank's class have in common."""
        with self._busy("outline"):
            return self._outline

    def look_up(self, token: str, retune: bool) -> answers.LookedUp:
        """Look the key up in this node's store by digests, and leave a marker of its directory."""
        with self._busy("look_up"):
            banned = valid_quarantine_rows(self.store.load_quarantine())
            self._tuner.set_quarantine(banned.rows)
            found, trouble = self._remote.lookup(self._tuner.check, asks=not retune)
            problems = [self._files.leave_marker(token), self._notice.begin(), trouble]
            if self._config.cache.persistent:
                self._delivery.hold_store()
            finished: ReadRows[TaskResult] = ReadRows() if retune else self._files.finished(self._tasks)
            refused = (*banned.warnings("quarantine"), *finished.warnings("finished tasks of earlier runs"))
            known = self._delivery.found.examined(found)
            warnings = [*found.warnings, *(problem for problem in problems if problem), *refused, *known.warnings]
            return answers.LookedUp(
                table=known.table,
                reason=known.reason,
                now=time.time(),
                finished=self._files.finished_digest(),
                lineage=ancestor_of(found.manifest),
                quarantine=banned.rows,
                warnings=tuple(warnings),
            )

    def receive(self, artifact: Artifact) -> str | None:
        """Take an artifact of another process, which `look_up` then finds. Returns why this node's disk refused it."""
        return self._delivery.found.receive(artifact)

    def recall_table(self) -> answers.RecalledTable | answers.Missing:
        """The rows of the table that `look_up` found."""
        with self._busy("recall_table"):
            return self._delivery.found.recall()

    def recall_finished(self) -> answers.RecalledTasks:
        """The tasks that earlier runs finished here, as `look_up` found them."""
        with self._busy("recall_finished"):
            return answers.RecalledTasks(self._files.recalled())

    def find_markers(self, tokens: Sequence[str]) -> answers.Markers:
        """Return the first of these markers in this node's directory."""
        with self._busy("find_markers"):
            return answers.Markers(tuple(islice(filter(self.store.sees_marker, tokens), 1)))

    def survey(self, tunes: bool = False) -> answers.Surveyed:
        """Restore stored compiled parts and list the modules that this node still lacks.

        `tunes`: this node will measure.
        """
        with self._busy("survey"):
            return self._compiled.survey(tunes)

    def compile(self) -> answers.Compiled:
        """Build what this node lacks until something more is done, on the CPUs of all its ranks: the others wait."""
        with self._busy("compile"):
            jobs = max(1, int(self._config.cluster.cpus_per_rank * self.info.local_world_size))
            return self._compiled.compile(jobs, self._record.progress)

    def pack_modules(self, modules: str | None = None) -> answers.PackedModules:
        """Pack this node's modules for nodes that lack them.

        `modules` is a set that this node uses.
        """
        with self._busy("pack_modules"):
            if modules is not None:
                self._compiled.activate(modules)
            return self._compiled.pack_modules()

    def install_modules(self, header: Header, blobs: Mapping[str, Blob]) -> answers.InstalledModules:
        """Install the modules of another node and use them."""
        with self._busy("install_modules"):
            return self._compiled.install_modules(header, blobs)

    def activate_modules(self, modules: str) -> answers.Activated:
        """Use a set of modules that another rank installed on this node."""
        with self._busy("activate_modules"):
            return answers.Activated(self._compiled.activate(modules))

    def tune(self, task_id: str, quarantine: Sequence[TacticId] = (), packs: bool = False) -> answers.Tuned:
        """Measure one task. `packs`: this rank will be asked to pack what the class finds."""
        with self._busy("tune", task_id):
            self._compiled.start_tuning()
            self._prepare(quarantine, packs)
            measured = self._tuner.tune(self._task(task_id))
            result = replace(measured, rank=self.info.rank, gpu=self._tuner.device())
            self._files.keep_result(result)
            return answers.Tuned(result)

    def compare(self, asked: questions.Compare) -> answers.Compared:
        """Time the choice of a task that every rank of the class times."""
        with self._busy("compare", asked.task_id):
            self._keep_away(asked.quarantine)
            result = self._tuner.measure(self._task(asked.task_id), [asked.choice])
            seconds = min((row.median_s for row in result.measurements), default=None)
            return answers.Compared(seconds, result.peak_bytes)

    def vote(self, asked: questions.Vote) -> answers.Voted:
        """Measure the short list of one task again."""
        with self._busy("vote", asked.task_id):
            self._keep_away(asked.quarantine)
            result = self._tuner.measure(self._task(asked.task_id), asked.shortlist)
            return answers.Voted(replace(result, rank=self.info.rank))

    def guard(
        self, task_id: str, result: TaskResult, quarantine: Sequence[TacticId] = (), packs: bool = False
    ) -> answers.Guarded:
        """Check one task's winner against the default tactic. `packs` as in `tune`."""
        with self._busy("guard", task_id):
            self._prepare(quarantine, packs)
            verdict = self._tuner.guard(self._task(task_id), result)
            return answers.Guarded(replace(verdict, rank=self.info.rank))

    def tune_engine(self) -> answers.EngineTuned:
        """Tune what only an engine's own step reaches, for the class: files to be packed with the table."""
        with self._busy("tune_engine"), TemporaryDirectory(prefix="ray-warmup-tune-") as scratch:
            return self._engine.tune(Path(scratch), capability_of(self._fingerprint.arch))

    def pack(self, asked: questions.Pack) -> answers.Packed:
        """Results, verdicts and what an engine's step tuned as one artifact, kept here until its blobs are fetched."""
        with self._busy("pack"):
            return self._delivery.pack(asked)

    def pack_stored(self, renew: bool = False) -> answers.Packed:
        """Pack the artifact that `look_up` found for nodes that lack it. A replacement process reads it from the store.

        `renew` replaces its compiled parts by those of this node.
        """
        with self._busy("pack_stored"):
            return self._delivery.pack_stored(renew)

    def blob(self, digest: str) -> Blob:
        """One blob of what was packed here."""
        for artifact in (self._delivery.artifact, self._compiled.artifact):
            if artifact is not None and digest in artifact.blobs:
                return artifact.blobs[digest]
        raise StoreError(f"blob {digest[:16]} is not part of the packed artifact")

    def wanted(self, question: questions.Question, digests: Sequence[str]) -> list[str]:
        """Return the offered blobs that a question needs on this rank. Takes no lock."""
        match question:
            case questions.InstallModules():
                return list(digests) if self._compiled.missing() else []
            case questions.Load(header=header) if header is not None:
                return self._delivery.wanted_to_load(header)
        return self._delivery.wanted(digests)

    def install(self, header: Header, blobs: Mapping[str, Blob]) -> answers.Installed:
        """Check everything that was pushed, then publish it on this node.

        A disk that refuses is answered with `degraded`; bytes that are not what they should be raise.
        """
        with self._busy("install"):
            return self._delivery.install(header, blobs)

    def load(self, digest: str, header: Header | None, blobs: Mapping[str, Blob]) -> answers.Loaded:
        """Load the class's table from this node's file, or from memory with a header, and prove every hit."""
        with self._busy("load"):
            self._loaded = None
            answer = self._delivery.load(digest, header, blobs)
            self._loaded = answer.digest
            return answer

    def replay(self) -> answers.Replayed:
        """Run every task once, so that the first request finds nothing to build."""
        with self._busy("replay"):
            if not self._config.autotune.is_enabled:
                return answers.Replayed(calls=0)
            replayed = self._tuner.replay(tuple(self._tasks.values()))
            return replace(replayed, peak_bytes=self._tuner.memory().peak)

    def warm(self, left_out: Mapping[str, str] | None = None) -> answers.Warmed:
        """Run what an engine warms at start-up, then requests that check that nothing is left to compile."""
        with self._busy("warm"):
            return self._engine.warm(left_out or {})

    def confirm(self) -> answers.Confirmed:
        """The last question before a run is called ready: which table does the device hold now?"""
        with self._busy("confirm"):
            return answers.Confirmed(None) if self._loaded is None else self._delivery.holds()

    def conclude(self, asked: questions.Conclude) -> answers.Concluded:
        """Keep how the run ended, for those who ask without Ray. May run beside a phase."""
        if not hasattr(self, "_notice"):
            return answers.Concluded(None)  # nothing was tuned, so nobody asks for a table
        problem = self._notice.conclude(asked.verdict, self._delivery.loaded_sha256, asked.ranks)
        return answers.Concluded(self._remote.share() if problem is None and asked.shares else problem)

    def status(self) -> Heartbeat:
        """Return the current work. Takes no lock and calls no device."""
        return self._record.heartbeat(self._tuner.watch() if hasattr(self, "_tuner") else Watch())

    def close(self) -> None:
        """Remove what this rank left on disk for this run only."""
        self._record.close()
        self._tidy()
        if hasattr(self, "_delivery"):
            self._delivery.release()
            self._compiled.collector.close()

    def _warms(self, name: str) -> None:
        """An engine warmup begins."""
        self._record.begin("warm", name)

    def _tidy(self) -> None:
        if hasattr(self, "_files"):
            self._files.remove_marker()

    def _described(self, about: answers.Probed) -> answers.Probed:
        return replace(about, backend=self._backend, last_words=self._record.last_words)

    def _prepare_delivery(self, paths: NodePaths, budget_bytes: int | None) -> None:
        if hasattr(self, "_delivery"):
            self._delivery.release()
        who = ReplayIdentity(self.info.rank, self._backend, self._factory, budget_bytes)
        self._compiled = compiled_work(self._config, who, self._tuner, self.store, self.key, self._fingerprint, paths)
        tasks = tuple(self._tasks.values())
        self._delivery = ArtifactExchange(
            self.info, self._tuner, self.store, self.key, self._fingerprint, tasks, self._compiled
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

    def _prepare(self, quarantine: Sequence[TacticId], packs: bool) -> None:
        self._keep_away(quarantine)
        if packs:
            self._compiled.collector.expect()

    def _keep_away(self, quarantine: Sequence[TacticId]) -> None:
        """Measure none of these tactics, and keep them beside the table for the next run."""
        banned = tuple(quarantine)
        if not banned or banned == self._kept_away:
            return
        self._kept_away = banned
        self._tuner.set_quarantine(banned)
        self._files.keep_quarantine(banned)

    def _task(self, task_id: str) -> Task:
        task = self._tasks.get(task_id)
        if task is None:
            raise WarmupError(f"this rank does not run task {task_id}")
        return task
