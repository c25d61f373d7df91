"""WarmupMachine: steps the phases, keeps the books on calls, watches deadlines, ends in READY or FAILED."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace, task_in
from ray_warmup.warmup.machine.failures.death_causes import show_stack, suspect
from ray_warmup.warmup.machine.failures.failure_messages import (
    Status,
    died_again,
    late_phase,
    lost_node,
    merge_equal,
    raised_by,
    went_on,
)
from ray_warmup.warmup.machine.failures.failure_window import FailureWindow
from ray_warmup.warmup.machine.failures.policy import Decision, FailurePolicy, NodePolicy
from ray_warmup.warmup.machine.failures.watchdog import late_ranks, mark_silent
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.phases.probing import probe
from ray_warmup.warmup.machine.phases.sequence import PhaseSequence, phases_of
from ray_warmup.warmup.machine.reports import on_disk
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Commands, Run
from ray_warmup.warmup.machine.steps import engine_warmups, node_loss
from ray_warmup.warmup.machine.steps.answer_handling import keep_answer
from ray_warmup.warmup.messages.answers import Answer, peak_of
from ray_warmup.warmup.messages.questions import Probe
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.tasks import TacticId

logger = logging.getLogger(__name__)


class WarmupMachine:
    """State machine of one run.

    It takes events with their time and returns commands.
    """

    def __init__(
        self,
        config: WarmupConfig,
        ranks: Sequence[RankInfo],
        run_id: str,
        *,
        retune: bool = False,
        policy: FailurePolicy | None = None,
        node_policy: NodePolicy | None = None,
        phases: Sequence[PhaseLogic] | None = None,
    ) -> None:
        """`phases` replaces those of the configuration, for a run that does less."""
        self.run = Run(config, run_id, {info.rank: RankState(info) for info in ranks}, retune)
        self._policy = policy or FailurePolicy()
        self._node_policy = node_policy or NodePolicy(Decision(config.cluster.on_node_loss))
        self._going_back = node_loss.GoingBack()
        self._phases = PhaseSequence(phases or phases_of(config))
        self._failures = FailureWindow()

    @property
    def phase(self) -> Phase:
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
        self.run.phase, self.run.phase_began = self._logic.phase, now
        return self._advance(self._issue(self._logic.enter(self.run), now), now)

    def returned(self, call_id: int, value: Answer, seconds: float, now: float) -> Commands:
        """A call was answered. Late answers of lost ranks are dropped."""
        call = self.run.close(call_id, now)
        # A call is closed when its rank is lost, so the answer of a process that was given up finds none.
        if self.is_over or not isinstance(call, Call):
            return []
        state = self.run.ranks[call.rank]
        state.seconds[self.phase] = state.seconds.get(self.phase, 0.0) + seconds
        # Kept before the answer is checked: also a refused one says what memory was used.
        state.peak_bytes = max(state.peak_bytes, peak_of(value))
        if problem := keep_answer(self.run, call, state, value):
            return self._fail_rank(call, problem, now)
        if self._failures.is_on:
            return self._end_grace(now)
        if isinstance(call.question, Probe) and not state.is_alive:
            return self._rejoined(call, value, now)
        return self._advance(self._issue(self._logic.returned(self.run, call, value), now), now)

    def adopted(self, call_id: int, now: float) -> Commands:
        """An artifact is safe with the coordinator."""
        adopt = self.run.close(call_id, now)
        if self.is_over or not isinstance(adopt, Adopt):
            return []
        # During the window other ranks may still fail, but nothing new is started.
        if self._failures.is_on:
            return self._end_grace(now)
        return self._advance(self._issue(self._logic.adopted(self.run, adopt), now), now)

    def raised(self, call_id: int, failure: Failure, now: float) -> Commands:
        """A call raised in the rank."""
        call = self.run.calls.get(call_id)
        if call is None or self.is_over:
            return []
        state = self.run.ranks[call.rank]
        if self._policy.on_exception(failure.kind, state.restarts - state.excused) is Decision.REPLACE:
            return self.died(call.rank, f"{failure.kind}: {failure.message}", now, failure=failure)
        self.run.close(call_id, now)
        if not self._failures.is_on and not self._policy.is_death(failure.kind):
            instead = self._logic.refused(self.run, call, failure)
            if instead is not None:
                return self._advance(self._issue(instead, now), now)
        return self._fail_rank(call, failure, now)

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
        """A rank's process is gone, or is given up because it hangs.

        Args:
            process: the number of the process that died, as in the command that met its death; None for the one
                that answers now. The death of an earlier process is an echo and changes nothing.
            hung: it still runs, and is given up.
            failure: what it raised, after which it can do nothing more; for one that hangs, what is known of that;
                None for one that is frozen.
        """
        state = self.run.ranks.get(rank)
        if state is None:
            return []  # it has left the run
        is_echo = state.is_starting
        if process is not None:
            is_echo = process != state.restarts
        if self.is_over or is_echo:
            return []
        was_alive, state.is_alive, state.is_starting = state.is_alive, False, False
        # Copied, because closing a call removes it from what is walked.
        lost = tuple(self.run.calls_of.get(rank, {}).values())
        for call in lost:
            self.run.close(call.call_id, now)
        if self._failures.is_on:
            return self._end_grace(now)
        if self._policy.on_death(state.restarts - state.excused) is Decision.FAIL:
            state.error = died_again(state, reason, lost)
            return self._fail(merge_equal({state.info: Failure("RankDiedError", state.error)}, self.run, now), now)
        state.restarts += 1
        state.is_starting = True
        self.run.warn(
            f"{state.info} died in {self.phase} ({reason}); a fresh process takes its place", remedies.NOTHING
        )
        commands: Commands = [Replace(rank, reason, state.restarts, hung, state.is_moving)]
        running = task_in(lost)
        if running is not None:
            suspect(state, running, hung=hung, failure=failure)
        # Without a task nothing can be suspected, so the next process may hang the same way.
        state.hung_outside = hung and running is None
        if was_alive and self.phase is not Phase.PROBING:
            commands += self._logic.lost(self.run, rank, lost)
        return self._issue(commands, now)

    def node_lost(self, node_id: str, now: float) -> Commands:
        """A whole node is gone, and with it the place of its ranks: the policy for nodes says what becomes of them."""
        ranks = node_loss.ranks_on(self.run, node_id)
        if self.is_over or not ranks:
            return []
        states = [self.run.ranks[rank] for rank in ranks]
        moves, left = max(state.moves for state in states), len(self.run.ranks) - len(ranks)
        # The rank that has moved most often decides, so that a failing cluster ends the run.
        decision = self._node_policy.on_loss(moves, left)
        if decision is Decision.FAIL:
            for state in states:
                state.is_alive, state.error = False, f"its node was lost in phase {self.phase}"
            return self._fail(lost_node(self.run, node_id, now), now)
        lost = node_loss.mark(self.run, ranks, now)
        commands: Commands = []
        if self.phase is not Phase.PROBING:
            for rank, calls in lost.items():
                commands += self._logic.lost(self.run, rank, calls)
        if decision is Decision.SHRINK:
            commands += node_loss.leave(self.run, ranks)
        else:
            commands += node_loss.move(self.run, ranks)
        self.run.warn(went_on(self.run, node_id, ranks, now), remedies.NODE_LOST)
        if self._failures.is_on:
            releases = [command for command in commands if isinstance(command, Release)]
            return [*releases, *self._end_grace(now)]
        if self.phase is Phase.PROBING:
            commands += self._logic.lost(self.run, ranks[0], ())
        else:
            self._going_back.is_due = True
        return self._advance(self._issue(commands, now), now)

    def replaced(self, info: RankInfo, now: float) -> Commands:
        """Take in a fresh process for a lost rank.

        It describes itself before it takes part.
        """
        state = self.run.ranks.get(info.rank)
        if state is None or self.is_over or self._failures.is_on or not state.is_starting:
            return []
        if info.node_id != state.info.node_id and not state.is_moving:
            return self.node_lost(state.info.node_id, now)  # Ray put it elsewhere before the loss was told
        self.run.move(info)
        state.is_starting, state.watched_since = False, now
        return self._issue([probe(self.run, info.rank)], now)

    def tick(self, now: float, statuses: Mapping[int, Status]) -> Commands:
        """Check the deadlines, and end the run after a failure's window."""
        if self.is_over:
            return []
        if self._failures.is_on:
            return self._end_window(now)
        limit = getattr(self.run.config.timeouts, self.phase.value.lower())
        if now - self.run.phase_began > limit:
            # Kept before the run fails: these are the ranks whose stacks are worth asking for.
            self.run.overdue = tuple(sorted(self.run.calls_of))
            return self._fail(late_phase(self.run, statuses, now, limit), now)
        # Before the deadlines of tasks, which do not count the time of a silent rank.
        mark_silent(self.run, statuses, now)
        # One at a time: giving up a rank changes what the others wait for, and the next tick looks again.
        for warmup in engine_warmups.late_warmups(self.run, statuses, now):
            return self._end_warmup(warmup, now)
        for late in late_ranks(self.run, statuses, now):
            return self._give_up(late.rank, late.reason, now, late.culprit, is_frozen=late.is_frozen)
        return self._issue(self._logic.more(self.run), now)

    def settled(self, now: float) -> Commands:
        """Results have come from outside the run: go on, if they were the last ones of the phase."""
        if self.is_over or self._failures.is_on:
            return []
        return self._advance(self._issue(self._logic.more(self.run), now), now)

    def was_deaf(self, now: float) -> None:
        """Nobody listened for a while: what was not heard until now is no rank's silence."""
        for state in self.run.ranks.values():
            state.watched_since = max(state.watched_since, now)
            # Without this the gap would look like a thaw and be taken off the rank's call.
            state.heard = max(state.heard, state.watched_since)

    def fail(self, reason: str, now: float) -> Commands:
        """End the run from outside (interrupt, lost placement group)."""
        if self.is_over:
            return []
        return self._fail(reason, now)

    @property
    def _logic(self) -> PhaseLogic:
        return self._phases.logic

    def _give_up(
        self, rank: int, reason: str, now: float, culprit: TacticId | None = None, *, is_frozen: bool = False
    ) -> Commands:
        """A rank hangs or is frozen: its process is replaced like a dead one, as long as the policy allows."""
        state = self.run.ranks[rank]
        if self._policy.on_death(state.restarts - state.excused) is Decision.FAIL:
            self.run.overdue = (rank,)
            return self._fail(reason, now)
        if is_frozen:
            return self.died(rank, reason, now, hung=True)
        return self.died(rank, reason, now, hung=True, failure=Failure("HungError", reason, culprit=culprit))

    def _end_warmup(self, late: engine_warmups.LateWarmup, now: float) -> Commands:
        """An engine warmup hangs: a required one fails the run, any other is left out by a fresh process."""
        if engine_warmups.is_required(self.run, late.name):
            return self._fail(late.reason, now)
        engine_warmups.give_up(self.run, self.run.ranks[late.rank], late.name, f"no end after {late.elapsed:.1f} s")
        return self._give_up(late.rank, late.reason, now)

    def _rejoined(self, call: Call, value: Answer, now: float) -> Commands:
        """A replacement described itself as its predecessor did: it takes part again."""
        state = self.run.ranks[call.rank]
        state.is_alive = True
        show_stack(self.run, state)
        if self.phase is Phase.PROBING:
            state.is_moving = False
            return self._advance(self._issue(self._logic.returned(self.run, call, value), now), now)
        if state.is_moving:
            return self._advance([], now)  # it has nothing on its new node: the run goes back for it
        return self._advance(self._issue(self._logic.joined(self.run, call.rank), now), now)

    def _issue(self, commands: Commands, now: float) -> Commands:
        commands = self._going_back.allowed(self.run, commands)
        for command in commands:
            if isinstance(command, Call | Adopt):
                self.run.open(command, now)
        return commands

    def _advance(self, commands: Commands, now: float) -> Commands:
        """Step over every complete phase, or go back to LOOKUP after a node loss."""
        issued: list[Command] = list(commands)
        # A phase may be complete as soon as it is entered, for example without tasks.
        while not self.is_over and not self._failures.is_on:
            if self._going_back.is_draining(self.run):
                if self.run.calls:
                    break
                issued += self._rewind(now)
                continue
            if not self._logic.is_complete(self.run):
                break
            if (problem := self._logic.refusal(self.run)) is not None:
                return [*issued, *self._fail(problem, now)]
            self._count_seconds(now)
            if self._phases.is_last:
                issued += self._end(now)
                break
            self._phases.step()
            self._enter(self._logic.phase, now)
            issued += self._issue(self._logic.enter(self.run), now)
        return issued

    def _end(self, now: float) -> Commands:
        """Every rank is ready: so is the run, when the disks hold what they should."""
        self.run.error = on_disk.refusal(self.run)
        if self.run.error is None:
            self._enter(Phase.READY, now)
        else:
            self._enter(Phase.FAILED, now)
        return []

    def _rewind(self, now: float) -> Commands:
        """Every rank has a process and nothing is in flight: LOOKUP again, on the nodes that there are now."""
        self._going_back.is_due = False
        self._count_seconds(now)
        self._phases.rewind()
        node_loss.begin_again(self.run)
        self._enter(self._logic.phase, now)
        return self._issue(self._logic.enter(self.run), now)

    def _count_seconds(self, now: float) -> None:
        """A phase that is entered again adds up."""
        before = self.run.seconds.get(self.phase, 0.0)
        self.run.seconds[self.phase] = before + now - self.run.phase_began

    def _enter(self, phase: Phase, now: float) -> None:
        took = now - self.run.phase_began
        logger.info("[State Transition] %s -> %s (%.2f s)", self.run.phase, phase, took)
        self.run.phase, self.run.phase_began = phase, now

    def _fail_rank(self, call: Call | Adopt, failure: Failure, now: float) -> Commands:
        info = self.run.ranks[call.rank].info
        is_new = self._failures.add(info, replace(failure, task_id=call.task_id or ""), now)
        if not is_new:
            failure = replace(failure, traceback="")  # thousands of equal ones fill a report
        self.run.ranks[call.rank].error = raised_by(self.run, call, info, failure, now)
        return self._end_grace(now)

    def _end_grace(self, now: float) -> Commands:
        """Nobody left who could add to the failure: no need to wait for the clock. Nothing new is asked meanwhile."""
        if self.run.calls:
            return []
        return self._fail(self._failures.summary(self.run, now), now)

    def _end_window(self, now: float) -> Commands:
        """End the run once the failure's window has closed."""
        if not self._failures.is_over(now):
            return []
        return self._fail(self._failures.summary(self.run, now), now)

    def _fail(self, text: str, now: float) -> Commands:
        self.run.error = text
        self._count_seconds(now)
        self._enter(Phase.FAILED, now)
        return []
