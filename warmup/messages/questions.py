"""Questions to a rank, phase by phase. `EXPECTED` in `wire.py` has the answers to each."""

from __future__ import annotations

import re
from dataclasses import field

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.messages.engine import EngineQuestion, InstallEngine
from ray_warmup.warmup.messages.values import Ancestor, Header, RunVerdict, TextFile
from ray_warmup.warmup.tasks import Choice, Contender, Count, GuardVerdict, Name, TacticId, TaskResult


@message
class Probe:
    """PROBING: import what the device needs, find the tasks, describe this process."""

    budget_bytes: Count | None = None
    """Device memory that tasks must fit; None: no limit."""
    modules: str | None = None
    """A set of modules that this rank's predecessor already used."""


@message
class Outline:
    """PROBING: list the tasks, which every rank of one key has in common."""


@message
class LookUp:
    """LOOKUP: describe the stored artifact by digests and leave a marker."""

    token: str
    """The marker by which other nodes recognise the directory."""
    retune: bool


@message
class FindMarkers:
    """LOOKUP: which of these markers lies in this node's directory?"""

    tokens: tuple[str, ...]


@message
class RecallTable:
    """LOOKUP: the rows of the table that `LookUp` found."""


@message
class RecallFinished:
    """LOOKUP: the tasks that earlier runs finished on this node."""


@message
class Survey:
    """COMPILING, INSTALLING: put stored compiled parts back, then say which modules are missing."""

    tunes: bool = False
    """This node will measure."""


@message
class Compile:
    """COMPILING: build missing modules until something more is finished."""


@message
class PackModules:
    """COMPILING: pack the modules that this node has, for nodes that lack them."""

    modules: str | None = None
    """A set that this node uses."""


@message
class InstallModules:
    """COMPILING: install the modules of another node and use them."""

    header: Header


@message
class ActivateModules:
    """COMPILING: use a set of modules that another rank installed on this node."""

    modules: str


@message
class Tune:
    """TUNING: measure one task."""

    task_id: Name
    quarantine: tuple[TacticId, ...] = ()
    packs: bool = False
    """This rank will be asked to pack what the class finds."""


@message
class Compare:
    """TUNING, `sharded`: time one choice of a task that every rank of the class times."""

    task_id: Name
    choice: Choice
    quarantine: tuple[TacticId, ...] = ()


@message
class Vote:
    """TUNING, `consensus`: measure the short list of a task again."""

    task_id: Name
    shortlist: tuple[Choice, ...]
    quarantine: tuple[TacticId, ...] = ()


@message
class TuneEngine:
    """TUNING: tune what only an engine's own step reaches."""


@message
class Guard:
    """GUARDING: check one task's winner against the default tactic."""

    task_id: Name
    result: TaskResult
    quarantine: tuple[TacticId, ...] = ()
    packs: bool = False
    """As in `Tune`."""
    contenders: tuple[Contender, ...] = ()
    """Candidates of earlier judges, with their ratios there; none for the first judge."""


@message
class Pack:
    """PUSHING: results, verdicts and what an engine's step tuned as one artifact, kept until its blobs are fetched."""

    results: tuple[TaskResult, ...]
    verdicts: tuple[GuardVerdict, ...]
    strategy: str
    guarded: bool
    tuned: tuple[TextFile, ...] = ()
    after: Ancestor | None = None
    """The artifact that it replaces."""


@message
class PackStored:
    """PUSHING: the artifact that `LookUp` found, for nodes that lack it."""

    renew: bool = False
    """With what is compiled on this node now in place of what the artifact had."""


@message
class Install:
    """INSTALLING: check what was pushed and publish it on this node."""

    header: Header


@message
class Load:
    """LOADING: load the class's table from this node's store, or from memory when a header comes along."""

    digest: str
    header: Header | None = None


@message
class Replay:
    """REPLAYING: run every loaded task once."""


@message
class Warm:
    """REPLAYING: run what an engine warms at start-up."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Warmups that are not tried again on this rank, and why."""


@message
class Confirm:
    """REPLAYING: which table does the device hold now?"""


@message
class Conclude:
    """After the run: leave its verdict on this node."""

    verdict: RunVerdict | None
    """None where another node writes it into the same directory."""
    ranks: tuple[int, ...] = ()
    """Those of this class on this node."""
    shares: bool = False
    """Write this node's artifact into the remote store, for one rank of each class."""


Question = (
    Probe
    | Outline
    | LookUp
    | FindMarkers
    | RecallTable
    | RecallFinished
    | Survey
    | Compile
    | PackModules
    | InstallModules
    | ActivateModules
    | Tune
    | Compare
    | Vote
    | TuneEngine
    | Guard
    | Pack
    | PackStored
    | Install
    | Load
    | Replay
    | Warm
    | Confirm
    | Conclude
)
AnyQuestion = Question | EngineQuestion
TaskQuestion = Tune | Compare | Vote | Guard
"""Questions about one task."""


def task_of(question: AnyQuestion) -> str | None:
    """Return the task that a question is about, or None."""
    if not isinstance(question, TaskQuestion):
        return None
    return question.task_id


def header_in(question: AnyQuestion) -> Header | None:
    """The artifact whose blobs go along with a question."""
    if not isinstance(question, InstallModules | Install | Load | InstallEngine):
        return None
    return question.header


def name_of(question: type[AnyQuestion]) -> str:
    """A kind of question in lower case, for people and records: `look_up`."""
    name = question.__name__
    if name not in _NAMES:
        _NAMES[name] = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return _NAMES[name]


_NAMES: dict[str, str] = {}
