"""`ray-warmup wait`: until what lies on a node is what an engine may start on.

Asked of this node, or of those simulated on it, without Ray: one `stat` a second at most, less often the longer it
takes. Through Ray Client of the node on which the command runs, by its address and cache root; from a machine that is
no node of the cluster of all nodes of the newest run.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.connection.addresses import NAMESPACE
from ray_warmup.actors.connection.of_questions import attached, is_client
from ray_warmup.actors.driver.warmup_run import coordinator_name
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY, EXIT_TIMEOUT, ClusterError
from ray_warmup.actors.questions.verdicts import ask_each
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.loader import config_of_text, text_of_config
from ray_warmup.warmup.rank.readiness import ReadinessQuestion, check_askable
from ray_warmup.warmup.rank.table_state import Accept, TableState
from ray_warmup.warmup.store.node_paths import environments_here, resolve_paths

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0
PATIENCE = 60.0
"""The pause is the time waited so far divided by this, within those bounds."""
ASK_RAY_S = 10.0
"""Least seconds between two queries of a cluster for another attempt."""
INTERRUPTED_S = 60.0
"""For how long a run whose process is gone is still believed in: its rank may be starting again."""
FULL_LOOK_S, RUNNING_LOOK_S = 300.0, 30.0
"""After so long everything is read again, for file systems that tell of changes late; while a run is said to be under
way, whose process may be gone."""
Clock = Callable[[], float]


def wait_ready(
    question: ReadinessQuestion,
    timeout_s: float,
    address: str | None,
    node: int | None = None,
    clock: Clock = time.monotonic,
) -> int:
    """0 when the tables that are asked for are there and stand, 1 when their run failed, 124 after `timeout_s`.

    Where the config simulates nodes: all of them, or `node` alone. Raises ConfigError where nothing is ever written.
    """
    check_askable(question.config)
    wait = _Wait(clock, timeout_s)
    if is_client(address):
        return _wait_for_cluster(question, address, wait)
    environments = environments_here(question.config, node)
    last_word = _LastWord(question, address, clock)
    while True:
        table_states, watching = question.look(environments)
        looked = clock()
        while True:
            code = last_word.of(table_states)
            if code is not None:
                if code == EXIT_READY:
                    wait.say(table_states)
                return code
            wait.say([table_state for table_state in table_states if not table_state.path])
            if not wait.pause():
                return EXIT_TIMEOUT
            is_running = any(table_state.is_running for table_state in table_states)
            due_s = RUNNING_LOOK_S if is_running else FULL_LOOK_S
            if watching.has_changed() or clock() - looked > due_s:
                break


def why_not_ready(question: ReadinessQuestion, address: str | None, node: int | None = None) -> list[str]:
    """Describe each node's state, or the place to ask, for a wait that did not end with 0."""
    if is_client(address):
        return ["`ray-warmup status`, with the same address, says how the last run ended on each node"]
    table_states = question.look(environments_here(question.config, node))[0]
    return [table_state.text for table_state in table_states if table_state.answer != "ready"]


def exit_code_of(table_states: Sequence[TableState]) -> int | None:
    """Return the exit code for one or several nodes: 0 if all classes are ready, 1 if one failed, or else None."""
    num_ready = 0
    for table_state in table_states:
        if table_state.answer == "failed":
            return EXIT_FAILED
        num_ready += table_state.answer == "ready"
    if not table_states or num_ready < len(table_states):
        return None
    return EXIT_READY


def exit_code_of_newest_run(table_states: Sequence[TableState]) -> int | None:
    """Return the exit code for a cluster's newest run on its nodes.

    Without any run, judge imported tables.
    """
    of_runs: dict[str, list[TableState]] = {}
    with_table = []
    for table_state in table_states:
        if table_state.run_id:
            of_runs.setdefault(table_state.run_id, []).append(table_state)
        if table_state.has_table:
            with_table.append(table_state)
    if not of_runs:
        return exit_code_of(with_table)
    # An older run's failure says nothing once another run has ended.
    return exit_code_of(max(of_runs.values(), key=_end_of))


def _end_of(table_states: Sequence[TableState]) -> float:
    """Return the time at which the last of these nodes' runs ended."""
    return max(table_state.ended_at for table_state in table_states)


@dataclass(frozen=True, slots=True)
class NodeTables:
    """Table states of one node."""

    root: str
    """Its cache root, which tells nodes on one machine apart."""
    table_states: tuple[TableState, ...]


def answer_here(config: str, rank: int | None, everyone: bool, accept: Accept) -> NodeTables:
    """Return this node's table_states and cache root for a config.

    Runs as a task on the node.
    """
    settings = config_of_text(config)
    table_states = ReadinessQuestion(settings, rank, everyone, accept).table_states({})
    return NodeTables(str(resolve_paths(settings.cache).root), tuple(table_states))


class _Wait:
    """Deadline, pauses and reported messages of one wait."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self._began = clock()
        self._deadline = self._began + timeout_s
        self._said: set[str] = set()

    def pause(self) -> bool:
        """Sleep for a growing while.

        Returns False once the time is over.
        """
        now = self._clock()
        if now >= self._deadline:
            return False
        # Pauses grow with the wait, so that hundreds of containers do not load a shared disk all day.
        pause = min(max((now - self._began) / PATIENCE, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        # Never past the deadline, since a supervisor counts on it.
        time.sleep(min(pause, self._deadline - now))
        return True

    def say(self, table_states: Sequence[TableState]) -> None:
        """Each text once, not at every look."""
        for table_state in table_states:
            self.warn(table_state.text)

    def warn(self, text: str) -> None:
        """A text once."""
        if text and text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


class _LastWord:
    """Interpretation of this node's table_states while a failed or interrupted run may have a successor."""

    def __init__(self, question: ReadinessQuestion, address: str | None, clock: Clock) -> None:
        self._question = question
        self._address = address
        self._clock = clock
        self._asked_at: float | None = None
        self._is_live = False
        self._gone_since: float | None = None

    def of(self, table_states: Sequence[TableState]) -> int | None:
        """Return the exit code as `exit_code_of` does.

        An interrupted run counts only after a while.
        """
        code = exit_code_of(table_states)
        if any(table_state.is_interrupted for table_state in table_states) and code is None:
            code = self._broken_off(table_states)
        else:
            self._gone_since = None
        if code == EXIT_FAILED and self._lives():
            return None
        return code

    def _broken_off(self, table_states: Sequence[TableState]) -> int | None:
        now = self._clock()
        if self._gone_since is None:
            self._gone_since = now
        is_open, is_served = False, True
        for table_state in table_states:
            if table_state.answer == "unknown" and not table_state.is_interrupted:
                is_open = True
            if table_state.answer != "ready" and not table_state.is_proven:
                is_served = False
        if is_open or now - self._gone_since < INTERRUPTED_S or self._lives():
            return None
        if is_served and self._question.accept == "table":
            return EXIT_READY
        return EXIT_FAILED

    def _lives(self) -> bool:
        """Return True if another attempt at the same work runs now.

        The cluster is asked at most every ASK_RAY_S seconds.
        """
        now = self._clock()
        if self._asked_at is None or now - self._asked_at >= ASK_RAY_S:
            self._asked_at = now
            self._is_live = _is_live(self._question.config, self._address)
        return self._is_live


def _wait_for_cluster(question: ReadinessQuestion, address: str | None, wait: _Wait) -> int:
    """Wait through one connection at a time.

    A cluster that is absent is tried again.
    """
    import ray

    while True:
        try:
            with attached(address) as connected:
                while connected:
                    code = _ask_cluster(question, wait)
                    if code is not None:
                        return code
                    if not wait.pause():
                        return EXIT_TIMEOUT
        except (ClusterError, ConnectionError, ray.exceptions.RayError) as error:
            wait.warn(f"{error}; tried again until --timeout")
        if not wait.pause():
            return EXIT_TIMEOUT


def _ask_cluster(question: ReadinessQuestion, wait: _Wait) -> int | None:
    """Return the exit code of this command's own node, or elsewhere of the newest run's nodes."""
    from ray_warmup.actors.cluster import membership

    members = membership.members()
    near = [node for node in members if _is_own(node.address)]
    root = str(resolve_paths(question.config.cache).root)
    table_states = _this_node(_ask_table_states(question, near, wait), root)
    if table_states is None:
        from ray_warmup.actors.stores.cache_commands import nodes_for

        table_states = _all_of(_ask_table_states(question, nodes_for(question.config, members), wait))
        code = exit_code_of_newest_run(table_states)
    else:
        code = exit_code_of(table_states)
    if code == EXIT_READY:
        wait.say(table_states)
    # Another attempt may still bring what the failed one did not.
    if code == EXIT_FAILED and _is_running(question.config):
        return None
    return code


def _ask_table_states(question: ReadinessQuestion, nodes: Sequence[Node], wait: _Wait) -> list[NodeTables]:
    """Return the answers of these nodes.

    A node that does not answer is named once.
    """
    settings = text_of_config(question.config)
    answers, problems = ask_each(nodes, answer_here, settings, question.rank, question.everyone, question.accept)
    for problem in problems:
        wait.warn(problem)
    return list(answers.values())


def _this_node(answers: Sequence[NodeTables], root: str) -> list[TableState] | None:
    """Return the table_states of this command's own node, or None if it runs on no node of the cluster.

    Of several nodes on this machine, those with its cache root count.
    """
    here = list(answers)
    if len(answers) > 1:
        here = [answer for answer in answers if answer.root == root]
    if not here:
        return None
    return _all_of(here)


def _all_of(answers: Sequence[NodeTables]) -> list[TableState]:
    found: list[TableState] = []
    for answer in answers:
        found += answer.table_states
    return found


def _is_own(address: str) -> bool:
    """Return True if an address belongs to this machine, that is, if a socket can bind it."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Binding needs no packet and works for every interface; port 0 is any free one.
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


def _is_live(config: WarmupConfig, address: str | None) -> bool:
    """Return True if another attempt at the same work runs, or if the cluster cannot be asked."""
    try:
        with attached(address) as connected:
            return connected and _is_running(config)
    except ClusterError as error:
        logger.warning("%s", error)
        return True


def _is_running(config: WarmupConfig) -> bool:
    """Return True if the connected cluster has a live coordinator of this work."""
    import ray

    try:
        ray.get_actor(coordinator_name(config), namespace=NAMESPACE)
    except ValueError:
        return False
    return True
