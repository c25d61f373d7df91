"""A run of a real engine over a cluster: record once, push through the object store, install and prove on every node.

    PLACING      one bundle of a replica's size on each node; replicas beside it are not started
    PROBING      engine, plugin and device of every node; what it holds for the request already
    RECORDING    one start with empty caches on the first node, unless some node holds a whole artifact
    INSTALLING   every other node takes the artifact's bytes from the object store
    PROVING      one start in an empty home on every node, at once
    READY        or FAILED with node, phase and the engine's last words

An artifact that is found and does not fit any more (the model's configuration changed under its name, say) is recorded
anew, once. Everything is owned by the driver and nothing is detached: whatever ends the driver ends the engines, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from pydantic import JsonValue
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_warmup.actors import capacity
from ray_warmup.actors.client import NAMESPACE, Turn, connected
from ray_warmup.actors.engine_launcher import EngineLauncher, LauncherFacts, RecordedHere
from ray_warmup.actors.errors import PlacementTimeoutError
from ray_warmup.actors.events import OnEvent, ignore
from ray_warmup.actors.remote_errors import as_failure, lacks_package, reason_of_death
from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.report import EngineReport, KindReport, NodeReport
from ray_warmup.warmup.engines.vllm.on_this_node import Proof
from ray_warmup.warmup.errors import EngineError, WarmupError

SLACK_S = 30.0
"""Beyond a start's own deadline: the launcher ends it and says why."""


def run_engine(
    config: EngineRunConfig, *, again: bool = False, wait: bool = True, on_event: OnEvent | None = None
) -> EngineReport:
    """Warm a cluster up for a real engine and return the report.

    `report.ready` is True if every node has proven its artifact.

    Args:
        config: what is asked (`ray_warmup.configs.loader.load_request`).
        again: record even where a node holds an artifact of the request.
        wait: when another run of the same work is active, wait for it; False raises BusyError.
        on_event: told phases and notes as they happen.

    Raises:
        ClusterError: Ray could not be reached.
        BusyError: another run has this work.
    """
    with connected(config):
        digest = hashlib.sha256(json.dumps(_shown(config), sort_keys=True).encode()).hexdigest()[:16]
        turn = Turn(f"engine-{digest}", config.timeouts.single_flight, wait, on_event or ignore)
        lock = turn.take(lambda: _lock(f"engine-{digest}"))
        try:
            return EngineRun(config, f"{digest}-{secrets.token_hex(2)}", on_event or ignore, again=again).run()
        finally:
            ray.kill(lock)


class RunLock:
    """Cluster-wide lock on a piece of work, held while a run does it."""

    def wait(self) -> None:
        """Return never: whoever waits for a run hears of this process' end."""
        while True:
            time.sleep(3600)


class EngineRun:
    """One run, from placing to the report."""

    def __init__(self, config: EngineRunConfig, run_id: str, on_event: OnEvent, *, again: bool = False) -> None:
        self._config = config
        self._again = again
        self._run_id = run_id
        self._on_event = on_event
        self._began = time.monotonic()
        self._phases: dict[str, float] = {}
        self._launchers: list[Any] = []
        self._group: PlacementGroup | None = None
        self._recorded: RecordedHere | None = None
        self._roles: dict[str, str] = {}
        self._facts: dict[Any, LauncherFacts] = {}

    def run(self) -> EngineReport:
        """Run every phase and give back what was placed. A failure is the report's error."""
        try:
            with self._phase("PLACING"):
                self._place()
            with self._phase("PROBING"):
                facts = self._probe()
            nodes = self._warm(facts)
            return self._report(nodes, None)
        except WarmupError as error:
            return self._report((), str(error))
        finally:
            self._release()

    def _place(self) -> None:
        """Wait for one bundle a replica. Raises PlacementTimeoutError."""
        cluster, per_replica = self._config.cluster, self._config.engine.ranks_per_replica
        one = capacity.bundle_of(cluster, cluster.backend_beside_gpus)
        bundle = {name: amount * per_replica for name, amount in one.items()}
        is_by_node = cluster.ranks_per_node is not None
        count = (cluster.num_nodes or 1) if is_by_node else cluster.num_ranks // per_replica
        strategy = "STRICT_SPREAD" if is_by_node else cluster.placement_strategy
        labels = capacity.wanted_labels(cluster)
        self._group = ray.util.placement_group(
            [bundle] * count,
            strategy=strategy,
            name=f"engine-{self._run_id}",
            bundle_label_selector=[labels] * count if labels else None,
        )
        limit = self._config.timeouts.placing
        if not ray.wait([self._group.ready()], timeout=limit)[0]:
            raise PlacementTimeoutError(
                f"{count} replicas of {capacity.in_words(bundle)} were not placed within {limit:g} s "
                f"(timeouts.placing); {capacity.describe(capacity.nodes(), bundle)}"
            )
        remote = ray.remote(EngineLauncher)
        for index in range(count):
            strategy_of_one = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
            options = remote.options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=strategy_of_one,
            )
            self._launchers.append(options.remote(self._config, env.rank_environment()))

    def _probe(self) -> dict[Any, LauncherFacts]:
        """Describe every node and keep one launcher of each. Raises EngineError for engines of different versions."""
        facts: dict[Any, LauncherFacts] = self._all(
            "describe", dict.fromkeys(self._launchers, ()), self._config.timeouts.probing
        )
        self._facts = facts
        versions = {fact.engine_version for fact in facts.values()}
        if len(versions) > 1:
            rows = ", ".join(f"node {fact.node_id[:8]}: {fact.engine_version}" for fact in facts.values())
            raise EngineError(f"nodes have different versions of vLLM ({rows}); one run serves one version")
        first_of_each_node: dict[Any, LauncherFacts] = {}
        seen: set[str] = set()
        for launcher, fact in facts.items():
            if fact.node_id not in seen:
                seen.add(fact.node_id)
                first_of_each_node[launcher] = fact
        return first_of_each_node

    def _warm(self, facts: Mapping[Any, LauncherFacts]) -> tuple[NodeReport, ...]:
        """Record where nothing is found, install and prove. Record anew, once, where what was found does not fit."""
        source = None if self._again else next((one for one, fact in facts.items() if fact.found), None)
        if source is not None:
            try:
                return self._ship_and_prove(facts, source, facts[source].found)
            except EngineError as error:
                self._say(f"the artifact that was found does not fit and is recorded anew: {_first(error)}")
                # The new one may have the same identity: no node's old copy stands in for it.
                facts = {one: replace(fact, found="") for one, fact in facts.items()}
        source = next(iter(facts))
        with self._phase("RECORDING"):
            limit = self._config.engine.start_deadline + SLACK_S
            self._recorded = self._all("record", {source: (facts[source],)}, limit)[source]
        return self._ship_and_prove(facts, source, self._recorded.key_sha256)

    def _ship_and_prove(self, facts: Mapping[Any, LauncherFacts], source: Any, key: str) -> tuple[NodeReport, ...]:
        others = {launcher: fact for launcher, fact in facts.items() if launcher != source and fact.found != key}
        self._roles = {fact.node_id: "found" for fact in facts.values()}
        if self._recorded is not None:
            self._roles[facts[source].node_id] = "recorded"
        if others:
            with self._phase("INSTALLING"):
                data = source.packed.remote(facts[source], key)  # a reference: the bytes never come here
                self._all(
                    "install", {one: (fact, data) for one, fact in others.items()}, self._config.timeouts.installing
                )
            self._roles |= {fact.node_id: "installed" for fact in others.values()}
        with self._phase("PROVING"):
            limit = self._config.engine.start_deadline + SLACK_S
            proofs: dict[Any, Proof] = self._all("prove", dict.fromkeys(facts, ()), limit)
        return tuple(self._row(facts[launcher], key, proof) for launcher, proof in proofs.items())

    def _row(self, facts: LauncherFacts, key: str, proof: Proof) -> NodeReport:
        result = proof.started.result
        return NodeReport(
            node_id=facts.node_id,
            address=facts.address,
            role=self._roles[facts.node_id],
            key_sha256=key,
            kinds=kinds_of(proof, {} if self._recorded is None else self._recorded.kinds),
            engine_s=float(result["engine_s"]),
            first_answer_s=float(result["first_answer_s"]),
            problems=proof.problems,
            notes=proof.notes,
        )

    def _all(self, method: str, calls: Mapping[Any, tuple[Any, ...]], limit_s: float) -> dict[Any, Any]:
        """Call one method of several launchers at once.

        Raises:
            EngineError: one raised, died, or did not answer within the limit; the node is named.
        """
        refs = {getattr(launcher, method).remote(*arguments): launcher for launcher, arguments in calls.items()}
        ready, late = ray.wait(list(refs), num_returns=len(refs), timeout=limit_s)
        if late:
            names = ", ".join(self._name(refs[ref]) for ref in late)
            raise EngineError(f"{method} did not end within {limit_s:g} s on {names}")
        answers = {}
        for ref in ready:
            where = f"{self._name(refs[ref])}, {method}"
            try:
                answers[refs[ref]] = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise EngineError(lacks_package(error, where) or f"{where}: {as_failure(error).message}") from error
            except ray.exceptions.RayError as error:
                raise EngineError(f"{where}: a launcher or its node was lost: {reason_of_death(error)}") from error
        return {launcher: answers[launcher] for launcher in calls}

    def _name(self, launcher: Any) -> str:
        """Name a launcher's node, or its bundle before the node is known."""
        facts = self._facts.get(launcher)
        if facts is None:
            return f"replica {self._launchers.index(launcher)}"
        return f"node {facts.node_id[:8]} ({facts.address})"

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self._on_event({"event": "phase", "phase": name, "at": began - self._began})
        try:
            yield
        finally:
            self._phases[name] = self._phases.get(name, 0.0) + time.monotonic() - began

    def _say(self, text: str) -> None:
        self._on_event({"event": "note", "text": text, "at": time.monotonic() - self._began})

    def _report(self, nodes: tuple[NodeReport, ...], error: str | None) -> EngineReport:
        recorded = None if self._recorded is None else self._recorded.engine_s
        return EngineReport(self._run_id, _shown(self._config), dict(self._phases), nodes, recorded, error)

    def _release(self) -> None:
        """Kill the launchers, whose engines end with them, and give the bundles back."""
        for launcher in self._launchers:
            ray.kill(launcher)
        if self._group is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.util.remove_placement_group(self._group)


def kinds_of(proof: Proof, recorded: Mapping[str, int]) -> tuple[KindReport, ...]:
    """Count each kind over the ranks of a proof start."""
    told = proof.started.records
    gained = [kind for kind, _ in proof.started.gained]
    names = {*recorded, *gained}
    for record in told:
        names |= {*record.placed, *record.counts.found, *record.counts.compiled}
    return tuple(
        KindReport(
            kind=name,
            recorded=recorded.get(name, 0),
            placed=sum(record.placed.get(name, 0) for record in told),
            found=sum(record.counts.found.get(name, 0) for record in told),
            compiled=max(sum(record.counts.compiled.get(name, 0) for record in told), gained.count(name)),
        )
        for name in sorted(names - {"engine_record"})
    )


def _lock(name: str) -> Any:
    return ray.remote(RunLock).options(name=name, namespace=NAMESPACE, num_cpus=0).remote()


def _shown(config: EngineRunConfig) -> dict[str, JsonValue]:
    """The request as plain values, without secrets."""
    shown = config.model_copy(update={"engine": config.engine.model_copy(update={"args": config.engine.shown_args})})
    return shown.model_dump(mode="json")


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0]
