"""EngineMachine: the state machine of a run with a real engine. Takes events with their time and returns commands.

The events and commands are those of `WarmupMachine`, so that one executor carries both out. It is a machine of its own
because a rank means something else here: a replica's launcher works for all its ranks, a question may take an hour, and
no rank loads a table. Its phase is derived from what is left to do (`steps.py`), forwards and backwards.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ray_warmup.configs.clause import when
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup import remedies
from ray_warmup.warmup.engines.machine import run_messages
from ray_warmup.warmup.engines.machine.answer_handling import begin_class, keep, renew
from ray_warmup.warmup.engines.machine.deadlines import limit_of
from ray_warmup.warmup.engines.machine.losses import forget_node, forget_process
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.engines.machine.state import EngineRun, LauncherState
from ray_warmup.warmup.engines.machine.steps import Hand, Owed, need_of
from ray_warmup.warmup.errors import EngineRequestError
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.failures.policy import Decision, FailurePolicy, NodePolicy
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.engine import EngineAnswer
from ray_warmup.warmup.ranks import RankInfo

logger = logging.getLogger(__name__)

GRACE_S = 0.3
"""After the first failure others are heard for so long."""
Commands = list[Command]


class EngineMachine:
    """State machine of one run."""

    def __init__(
        self,
        config: EngineRunConfig,
        ranks: Sequence[RankInfo],
        run_id: str,
        *,
        again: bool = False,
        policy: FailurePolicy | None = None,
    ) -> None:
        self.run = EngineRun(config, run_id, {info.rank: LauncherState(info) for info in ranks}, again)
        self._policy = policy or FailurePolicy()
        self._node_policy = NodePolicy(Decision(config.cluster.on_node_loss))
        self._failures: list[str] = []
        self._failed_at: float | None = None

    @property
    def phase(self) -> EnginePhase:
        """Return the current phase."""
        return self.run.phase

    @property
    def is_over(self) -> bool:
        """READY or FAILED."""
        return self.run.phase.is_final

    def begin(self, now: float) -> Commands:
        """Enter PROBING."""
        for state in self.run.ranks.values():
            state.watched_since = now
        self.run.phase_began = now
        return self._advance(now)

    def returned(self, call_id: int, value: Answer | EngineAnswer, seconds: float, now: float) -> Commands:
        """A call was answered. Late answers of lost processes are dropped."""
        call = self._close(call_id)
        if self.is_over or not isinstance(call, Call):
            return []
        if self._failed_at is None:
            keep(self.run, call, value)
        return self._advance(now)

    def adopted(self, call_id: int, now: float) -> Commands:
        """An artifact's blobs are safe with the coordinator."""
        adopt = self._close(call_id)
        if self.is_over or not isinstance(adopt, Adopt):
            return []
        group = self.run.classes.get(adopt.key)
        if group is not None and group.header is not None and group.header.digests == adopt.digests:
            group.is_adopted = True
        return self._advance(now)

    def raised(self, call_id: int, failure: Failure, now: float) -> Commands:
        """A call raised in a launcher: what was found is recorded anew, and anything else fails the run."""
        began = self.run.call_began.get(call_id, now)
        call = self._close(call_id)
        if call is None or self.is_over:
            return []
        self.run.call_began[call_id] = began
        state = self.run.ranks[call.rank]
        text = run_messages.raised_by(self.run, state.info, call, failure, now)
        del self.run.call_began[call_id]
        if self._failed_at is None and renew(self.run, call, failure.message):
            return self._advance(now)
        state.error = text
        self.run.is_refused = self.run.is_refused or failure.kind == EngineRequestError.__name__
        self._failures.append(text)
        if self._failed_at is None:
            self._failed_at = now
        return self._advance(now)

    def died(
        self,
        rank: int,
        reason: str,
        now: float,
        process: int | None = None,
        *,
        hung: bool = False,
        failure: Failure | None = None,
    ) -> Commands:
        """A process is gone, or is given up. The death of an earlier process is an echo and changes nothing."""
        state = self.run.ranks.get(rank)
        if state is None or self.is_over:
            return []
        if process is None and state.is_starting:
            return []
        if process is not None and process != state.restarts:
            return []
        lost = self._close_all(rank)
        if self._failed_at is not None:
            return self._advance(now)
        if self._policy.on_death(state.restarts - state.excused) is Decision.FAIL:
            state.error = run_messages.died_again(self.run, state, reason, lost)
            return self._fail(state.error, now)
        forget_process(self.run, rank)
        state.restarts, state.is_starting, state.is_silent = state.restarts + 1, True, False
        doing = when(lost, f" at {', '.join(map(run_messages.name_of_call, lost))}")
        self.run.warn(
            f"{state.info} died in {self.phase}{doing} ({reason}); a fresh process takes its place", remedies.NOTHING
        )
        return [Replace(rank, reason, state.restarts, hung, bool(state.moves)), *self._advance(now)]

    def node_lost(self, node_id: str, now: float) -> Commands:
        """A whole node is gone: `cluster.on_node_loss` says what becomes of its ranks."""
        run = self.run
        ranks = run.ranks_on(node_id)
        if self.is_over or not ranks:
            return []
        policy = self._node_policy.on_loss_of_node
        going = ranks
        if policy is Decision.SHRINK:
            going = run.with_replicas(ranks)
        moves = max(run.ranks[rank].moves for rank in ranks)
        decision = self._node_policy.on_loss(moves, len(run.ranks) - len(going))
        if decision is Decision.FAIL:
            return self._fail(run_messages.lost_node(run, node_id, ranks, now), now)
        run.warn(run_messages.went_on(run, node_id, going, now), remedies.NODE_LOST)
        for rank in going:
            self._close_all(rank)
            forget_process(run, rank)
        forget_node(run, node_id)
        commands: Commands = []
        for rank in going:
            if decision is Decision.SHRINK:
                run.left[rank] = run.ranks.pop(rank)
                commands.append(Release(rank))
            else:
                commands.append(self._move(rank, node_id))
        if decision is Decision.SHRINK:
            forget_unused_nodes(run)
        return [*commands, *self._advance(now)]

    def replaced(self, info: RankInfo, now: float) -> Commands:
        """Take in a fresh process for a lost one."""
        state = self.run.ranks.get(info.rank)
        if state is None or self.is_over or not state.is_starting:
            return []
        if info.node_id != state.info.node_id and not state.moves:
            return self.node_lost(state.info.node_id, now)  # it was put elsewhere before the loss was told
        state.info, state.is_starting, state.watched_since = info, False, now
        return self._advance(now)

    def tick(self, now: float, statuses: Mapping[int, Status]) -> Commands:
        """Check the deadlines, and end the run after a failure's window."""
        if self.is_over:
            return []
        if self._failed_at is not None:
            return self._advance(now)
        for call_id, call in list(self.run.calls.items()):
            elapsed, limit = now - self.run.call_began[call_id], limit_of(self.run, call)
            if elapsed > limit:
                return self._fail(run_messages.late(self.run, call, statuses, elapsed, limit), now)
        for rank, state in list(self.run.ranks.items()):
            status = statuses.get(rank)
            heard = state.watched_since
            if status is not None:
                heard = max(status.heard, state.watched_since)
            state.is_silent = not state.is_starting and now - heard > 2 * self.run.config.timeouts.heartbeat
            if not state.is_starting and now - heard > self.run.config.timeouts.silence:
                return self.died(rank, run_messages.silent(self.run, state, now - heard), now, hung=True)
        return self._advance(now)

    def was_deaf(self, now: float) -> None:
        """Nobody listened for a while: what was not heard until now is no process' silence."""
        for state in self.run.ranks.values():
            state.watched_since = max(state.watched_since, now)

    def fail(self, reason: str, now: float) -> Commands:
        """End the run from outside."""
        if self.is_over:
            return []
        return self._fail(reason, now)

    def _move(self, rank: int, node_id: str) -> Replace:
        state = self.run.ranks[rank]
        state.restarts, state.excused, state.moves = state.restarts + 1, state.excused + 1, state.moves + 1
        state.is_starting, state.is_silent = True, False
        return Replace(rank, f"node {node_id[:8]} was lost", state.restarts, False, True)

    def _advance(self, now: float) -> Commands:
        """Ask for what is owed, or end the run when nothing is left."""
        run = self.run
        if self._failed_at is not None:
            if not run.calls or now - self._failed_at >= GRACE_S:
                return self._fail("\n".join(dict.fromkeys(self._failures)), now)
            return []
        if any(state.is_starting and state.moves for state in run.ranks.values()):
            return []  # which node a replica is on is not known
        if problem := run_messages.of_spread(run) or run_messages.of_signing(run):
            return self._fail(problem, now)
        need = need_of(run)
        if need is not None and need.phase is not EnginePhase.PROBING and not run.classes:
            raise AssertionError("classes are made before any class needs anything")
        if need is None and not run.classes:
            return self._classes_made(now)
        if need is None:
            if run.calls:
                return []
            return self._end(EnginePhase.READY, now)
        self._enter(need.phase, now)
        return self._issue(need.owed, now)

    def _classes_made(self, now: float) -> Commands:
        problem = run_messages.of_versions(self.run) or run_messages.of_models(self.run)
        if problem:
            return self._fail(problem, now)
        for device in dict.fromkeys(node.device for node in self.run.nodes.values()):
            begin_class(self.run, device)
        return self._advance(now)

    def _issue(self, owed: Sequence[Owed], now: float) -> Commands:
        """Make calls of what is owed by ranks that are free and have a process."""
        commands: Commands = []
        busy = self.run.busy()
        for row in owed:
            state = self.run.ranks[row.rank]
            if row.rank in busy or state.is_starting:
                continue
            busy.add(row.rank)
            command = self._command(row, state)
            self.run.calls[command.call_id] = command
            self.run.call_began[command.call_id] = now
            commands.append(command)
        return commands

    def _command(self, row: Owed, state: LauncherState) -> Call | Adopt:
        number = self.run.next_call()
        if isinstance(row.what, Hand):
            group = self.run.class_of_rank(row.rank)
            assert group is not None
            assert group.header is not None, "it was packed"
            return Adopt(number, row.rank, group.device, group.header.digests, state.restarts)
        return Call(number, row.rank, row.what, state.restarts)

    def _close(self, call_id: int) -> Call | Adopt | None:
        self.run.call_began.pop(call_id, None)
        return self.run.calls.pop(call_id, None)

    def _close_all(self, rank: int) -> tuple[Call | Adopt, ...]:
        lost = tuple(call for call in self.run.calls.values() if call.rank == rank)
        for call in lost:
            self._close(call.call_id)
        return lost

    def _enter(self, phase: EnginePhase, now: float) -> None:
        if phase is self.run.phase:
            return
        took = now - self.run.phase_began
        self.run.seconds[self.run.phase] = self.run.seconds.get(self.run.phase, 0.0) + took
        logger.info("[State Transition] %s -> %s (%.2f s)", self.run.phase, phase, took)
        self.run.phase, self.run.phase_began = phase, now

    def _end(self, phase: EnginePhase, now: float) -> Commands:
        for group in self.run.classes.values():
            if any(proof.problems for proof in group.proofs.values()):
                phase = EnginePhase.FAILED
        self._enter(phase, now)
        return []

    def _fail(self, text: str, now: float) -> Commands:
        self.run.error = text
        self._enter(EnginePhase.FAILED, now)
        return []


def forget_unused_nodes(run: EngineRun) -> None:
    """Ranks that left took the last rank of a node along: nothing is owed there any more."""
    used = {state.info.node_id for state in run.ranks.values()}
    for node_id in [node for node in run.nodes if node not in used]:
        forget_node(run, node_id)
