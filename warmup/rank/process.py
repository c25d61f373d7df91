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
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.artifact import Artifact, Blob
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.quarantine import valid_quarantine_rows
from ray_warmup.warmup.artifact.rows import ReadRows
from ray_warmup.warmup.caches.workspace import check_code_caches
from ray_warmup.warmup.device.factory import TunerFactory
from ray_warmup.warmup.device.tuner import Tuner, TunerOptions, Watch
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.values import Header, Heartbeat
from ray_warmup.warmup.rank.activity import RankActivity
from ray_warmup.warmup.rank.crash_recorder import crash_record_path
from ray_warmup.warmup.rank.engine import RankEngine
from ray_warmup.warmup.rank.packing import ancestor_of
from ray_warmup.warmup.rank.probed_rank import ProbedRank, RankSettings, probed_rank
from ray_warmup.warmup.rank.rank_setup import workspace_is_made
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_paths import flashinfer_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import TacticId, TaskResult

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
        self._settings = RankSettings(info, config, backend, run_id, factory)
        self._config = config
        self._record = RankActivity()
        self._kept_away: tuple[TacticId, ...] = ()
        self._make_tuner = make_tuner
        self._tuner: Tuner | None = None
        """Set as soon as it exists, since a heartbeat tells what it runs while `probe` goes on."""
        self._engine: RankEngine
        self._probed: ProbedRank | None = None
        self._loaded: str | None = None

    @property
    def parts(self) -> ProbedRank:
        """Return what `probe` prepared. Raises WarmupError before, and where nothing is tuned."""
        if self._probed is None:
            raise WarmupError("this rank has no tasks: it was not probed, or autotune is off")
        return self._probed

    @property
    def key(self) -> CacheKey:
        """Return the cache key."""
        return self.parts.key

    @property
    def store(self) -> NodeStore:
        """Return this node's store of the key."""
        return self.parts.store

    def probe(self, budget_bytes: int | None = None, modules: str | None = None) -> answers.Probed:
        """Import what the device needs, find the tasks (those within a memory budget), and describe this process.

        `modules` is a set that this rank's predecessor already used.
        """
        with self._busy("probe"):
            believe(self._config.cache)
            dims, backend = dimensions_of(self._config), self._settings.backend
            self._engine = RankEngine(self._config, dims, self.info.rank, backend, self._warms)
            paths = resolve_paths(self._config.cache)
            env.export(flashinfer_environment(paths))
            if not self._config.autotune.is_enabled:
                return self._described(answers.Probed())
            check_code_caches(paths.workspace, env.snapshot(), Path(env.read("HOME") or paths.root))
            with workspace_is_made(paths.workspace):
                self._tuner = self._make_tuner(backend, TunerOptions(self._config.autotune, self._config.guard))
            calls = self._engine.calls()
            self._begin(probed_rank(self._settings, dims, self._tuner, paths, calls, budget_bytes), modules)
            tunes = self._engine.tunes(self.parts.capability)
            return self._described(replace(self.parts.describe(), tunes_engine=tunes))

    def _begin(self, probed: ProbedRank, modules: str | None) -> None:
        """Hold the store, use the modules of a predecessor, and write down from now on what this rank runs."""
        if self._probed is not None:
            self._probed.delivery.release()
        self._probed = probed
        if self._config.cache.persistent and (self._settings.run_id or modules is not None):
            probed.delivery.hold_store()  # what a run has there, also that of a process that this one replaces
        if modules is not None:
            probed.compiled.activate(modules)
        if self._settings.keeps_crash_record:
            path = crash_record_path(probed.store.directory, self._settings.run_id, self.info.rank)
            self._record.open(path, self._config.cache.dir_mode)
        probed.tuner.listen(self._record.tactic)
        probed.notice.renew()

    def outline(self) -> answers.Outlined:
        """Return what all ranks of this rank's class have in common."""
        with self._busy("outline"):
            if self._probed is None:
                return answers.Outlined()
            return self._probed.outline

    def look_up(self, token: str, retune: bool) -> answers.LookedUp:
        """Look the key up in this node's store by digests, and leave a marker of its directory."""
        with self._busy("look_up"):
            banned = valid_quarantine_rows(self.parts.store.load_quarantine())
            self.parts.tuner.set_quarantine(banned.rows)
            found, trouble = self.parts.remote.lookup(self.parts.tuner.check, asks=not retune)
            problems = [self.parts.files.leave_marker(token), self.parts.notice.begin(), trouble]
            if self._config.cache.persistent:
                self.parts.delivery.hold_store()
            finished: ReadRows[TaskResult] = ReadRows() if retune else self.parts.files.finished(self.parts.tasks)
            refused = (*banned.warnings("quarantine"), *finished.warnings("finished tasks of earlier runs"))
            known = self.parts.delivery.found.examined(found)
            warnings = [*found.warnings, *(problem for problem in problems if problem), *refused, *known.warnings]
            return answers.LookedUp(
                table=known.table,
                reason=known.reason,
                now=time.time(),
                finished=self.parts.files.finished_digest(),
                lineage=ancestor_of(found.manifest),
                quarantine=banned.rows,
                warnings=tuple(warnings),
            )

    def receive(self, artifact: Artifact) -> str | None:
        """Take an artifact of another process, which `look_up` then finds. Returns why this node's disk refused it."""
        return self.parts.delivery.found.receive(artifact)

    def recall_table(self) -> answers.RecalledTable | answers.Missing:
        """The rows of the table that `look_up` found."""
        with self._busy("recall_table"):
            return self.parts.delivery.found.recall()

    def recall_finished(self) -> answers.RecalledTasks:
        """The tasks that earlier runs finished here, as `look_up` found them."""
        with self._busy("recall_finished"):
            return answers.RecalledTasks(self.parts.files.recalled())

    def find_markers(self, tokens: Sequence[str]) -> answers.Markers:
        """Return the first of these markers in this node's directory."""
        with self._busy("find_markers"):
            return answers.Markers(tuple(islice(filter(self.parts.store.sees_marker, tokens), 1)))

    def survey(self, tunes: bool = False) -> answers.Surveyed:
        """Restore stored compiled parts and list the modules that this node still lacks.

        `tunes`: this node will measure.
        """
        with self._busy("survey"):
            return self.parts.compiled.survey(tunes)

    def compile(self) -> answers.Compiled:
        """Build what this node lacks until something more is done, on the CPUs of all its ranks: the others wait."""
        with self._busy("compile"):
            jobs = max(1, int(self._config.cluster.cpus_per_rank * self.info.local_world_size))
            return self.parts.compiled.compile(jobs, self._record.progress)

    def pack_modules(self, modules: str | None = None) -> answers.PackedModules:
        """Pack this node's modules for nodes that lack them.

        `modules` is a set that this node uses.
        """
        with self._busy("pack_modules"):
            if modules is not None:
                self.parts.compiled.activate(modules)
            return self.parts.compiled.pack_modules()

    def install_modules(self, header: Header, blobs: Mapping[str, Blob]) -> answers.InstalledModules:
        """Install the modules of another node and use them."""
        with self._busy("install_modules"):
            return self.parts.compiled.install_modules(header, blobs)

    def activate_modules(self, modules: str) -> answers.Activated:
        """Use a set of modules that another rank installed on this node."""
        with self._busy("activate_modules"):
            return answers.Activated(self.parts.compiled.activate(modules))

    def tune(self, task_id: str, quarantine: Sequence[TacticId] = (), packs: bool = False) -> answers.Tuned:
        """Measure one task. `packs`: this rank will be asked to pack what the class finds."""
        with self._busy("tune", task_id):
            self.parts.compiled.start_tuning()
            self._prepare(quarantine, packs)
            measured = self.parts.tuner.tune(self.parts.task(task_id))
            result = replace(measured, rank=self.info.rank, gpu=self.parts.tuner.device())
            self.parts.files.keep_result(result)
            return answers.Tuned(result)

    def compare(self, asked: questions.Compare) -> answers.Compared:
        """Time the choice of a task that every rank of the class times."""
        with self._busy("compare", asked.task_id):
            self._keep_away(asked.quarantine)
            result = self.parts.tuner.measure(self.parts.task(asked.task_id), [asked.choice])
            seconds = min((row.median_s for row in result.measurements), default=None)
            return answers.Compared(seconds, result.peak_bytes)

    def vote(self, asked: questions.Vote) -> answers.Voted:
        """Measure the short list of one task again."""
        with self._busy("vote", asked.task_id):
            self._keep_away(asked.quarantine)
            result = self.parts.tuner.measure(self.parts.task(asked.task_id), asked.shortlist)
            return answers.Voted(replace(result, rank=self.info.rank))

    def guard(self, asked: questions.Guard) -> answers.Guarded:
        """Check one task's winner against the default tactic."""
        with self._busy("guard", asked.task_id):
            self._prepare(asked.quarantine, asked.packs)
            found = self.parts.tuner.guard(self.parts.task(asked.task_id), asked.result, asked.contenders)
            return replace(found, verdict=replace(found.verdict, rank=self.info.rank))

    def tune_engine(self) -> answers.EngineTuned:
        """Tune what only an engine's own step reaches, for the class: files to be packed with the table."""
        with self._busy("tune_engine"), TemporaryDirectory(prefix="ray-warmup-tune-") as scratch:
            return self._engine.tune(Path(scratch), self.parts.capability)

    def pack(self, asked: questions.Pack) -> answers.Packed:
        """Results, verdicts and what an engine's step tuned as one artifact, kept here until its blobs are fetched."""
        with self._busy("pack"):
            return self.parts.delivery.pack(asked)

    def pack_stored(self, renew: bool = False) -> answers.Packed:
        """Pack the artifact that `look_up` found for nodes that lack it. A replacement process reads it from the store.

        `renew` replaces its compiled parts by those of this node.
        """
        with self._busy("pack_stored"):
            return self.parts.delivery.pack_stored(renew)

    def blob(self, digest: str) -> Blob:
        """One blob of what was packed here."""
        for artifact in (self.parts.delivery.artifact, self.parts.compiled.artifact):
            if artifact is not None and digest in artifact.blobs:
                return artifact.blobs[digest]
        raise StoreError(f"blob {digest[:16]} is not part of the packed artifact")

    def wanted(self, question: questions.Question, digests: Sequence[str]) -> list[str]:
        """Return the offered blobs that a question needs on this rank. Takes no lock."""
        match question:
            case questions.InstallModules():
                return list(digests) if self.parts.compiled.missing() else []
            case questions.Load(header=header) if header is not None:
                return self.parts.delivery.wanted_to_load(header)
        return self.parts.delivery.wanted(digests)

    def install(self, header: Header, blobs: Mapping[str, Blob]) -> answers.Installed:
        """Check everything that was pushed, then publish it on this node.

        A disk that refuses is answered with `degraded`; bytes that are not what they should be raise.
        """
        with self._busy("install"):
            return self.parts.delivery.install(header, blobs)

    def load(self, digest: str, header: Header | None, blobs: Mapping[str, Blob]) -> answers.Loaded:
        """Load the class's table from this node's file, or from memory with a header, and prove every hit."""
        with self._busy("load"):
            self._loaded = None
            answer = self.parts.delivery.load(digest, header, blobs)
            self._loaded = answer.digest
            return answer

    def replay(self) -> answers.Replayed:
        """Run every task once, so that the first request finds nothing to build."""
        with self._busy("replay"):
            if not self._config.autotune.is_enabled:
                return answers.Replayed(calls=0)
            replayed = self.parts.tuner.replay(tuple(self.parts.tasks.values()))
            return replace(replayed, peak_bytes=self.parts.tuner.memory().peak)

    def warm(self, left_out: Mapping[str, str] | None = None) -> answers.Warmed:
        """Run what an engine warms at start-up, then requests that check that nothing is left to compile."""
        with self._busy("warm"):
            return self._engine.warm(left_out or {})

    def confirm(self) -> answers.Confirmed:
        """The last question before a run is called ready: which table does the device hold now?"""
        with self._busy("confirm"):
            return answers.Confirmed(None) if self._loaded is None else self.parts.delivery.holds()

    def conclude(self, asked: questions.Conclude) -> answers.Concluded:
        """Keep how the run ended, for those who ask without Ray. May run beside a phase."""
        probed = self._probed
        if probed is None:
            return answers.Concluded(None)  # nothing was tuned, so nobody asks for a table
        problem = probed.notice.conclude(asked.verdict, probed.delivery.loaded_sha256, asked.ranks)
        if problem is None and asked.shares:
            problem = probed.remote.share()
        return answers.Concluded(problem)

    def status(self) -> Heartbeat:
        """Return the current work. Takes no lock and calls no device."""
        watch = Watch()
        if self._tuner is not None:
            watch = self._tuner.watch()
        return self._record.heartbeat(watch)

    def close(self) -> None:
        """Remove what this rank left on disk for this run only."""
        self._record.close()
        self._tidy()
        if self._probed is not None:
            self._probed.delivery.release()
            self._probed.compiled.collector.close()

    def _warms(self, name: str) -> None:
        """An engine warmup begins."""
        self._record.begin("warm", name)

    def _tidy(self) -> None:
        if self._probed is not None:
            self._probed.files.remove_marker()

    def _described(self, about: answers.Probed) -> answers.Probed:
        return replace(about, backend=self._settings.backend, last_words=self._record.last_words)

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
            self.parts.compiled.collector.expect()

    def _keep_away(self, quarantine: Sequence[TacticId]) -> None:
        """Measure none of these tactics, and keep them beside the table for the next run."""
        banned = tuple(quarantine)
        if not banned or banned == self._kept_away:
            return
        self._kept_away = banned
        self.parts.tuner.set_quarantine(banned)
        self.parts.files.keep_quarantine(banned)
