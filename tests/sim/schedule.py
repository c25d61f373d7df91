"""A random schedule: how large the run is, what its nodes hold already, and which faults strike when.

Everything follows from one number, so a schedule that broke a property is replayed by that number.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.machine.phases.sequence import ORDER
from ray_warmup.warmup.messages.values import PoolTask
from ray_warmup.warmup.ranks import ActorLocation, RankInfo, assign_ranks
from ray_warmup.warmup.tasks import TaskOutcome
from tests.sim.model_class import ModelClass
from tests.sim.model_state import Directory, Table
from tests.sim.world import World, make_result, make_verdict

METHODS = (
    "probe",
    "outline",
    "look_up",
    "find_markers",
    "recall_table",
    "recall_finished",
    "survey",
    "compile",
    "pack_modules",
    "install_modules",
    "activate_modules",
    "tune",
    "guard",
    "measure",
    "pack",
    "pack_stored",
    "adopt",
    "install",
    "load",
    "replay",
    "warm",
    "confirm",
)
STRUCK_AS = {"compare": "measure", "vote": "measure"}
"""Questions that share a name among METHODS, so that a seed goes on to draw what it drew when it found something."""
PHASES = tuple(logic.phase.lower() for logic in ORDER)
PHASE_LIMIT_S = 900.0
TASK_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a run is."""

    nodes: int
    ranks: int
    """In all, spread as evenly as they go."""
    classes: int
    tasks: int
    """Per class."""


FULL = Shape(nodes=128, ranks=1000, classes=2, tasks=300)


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault at the nth time that any process begins or ends a method."""

    kind: str
    """dies, dies_after (its answer is under way), node_dies (all its processes), node_lost, hangs, raises or
    context_dies."""
    method: str
    nth: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run of the simulation."""

    seed: int
    shape: Shape
    config: WarmupConfig
    retune: bool
    strikes: tuple[Strike, ...]
    deaths_at: tuple[tuple[float, int], ...]
    """Time and rank: strikes that need no call in flight."""
    foreign_replacements: bool
    fresh_deaths: float
    """How often a fresh process dies before it can answer."""
    slow_notice_s: float
    """A death is known within this time."""
    echoes: bool
    """Deaths are reported again and again, also long after the replacement stands."""


def draw(seed: int, shape: Shape | None = None) -> Schedule:
    """The schedule of a seed; a given shape replaces the drawn one."""
    rng = random.Random(f"schedule {seed}")
    nodes = rng.choice((1, 1, 2, 2, 2, 3, 4, 8))
    drawn = Shape(
        nodes=nodes,
        ranks=nodes * rng.choice((1, 2, 2, 4, 4, 8)),
        classes=rng.choice((1, 1, 1, 2, 3)),
        tasks=rng.choice((0, 1, 2, 5, 12, 24)),
    )
    shape = shape or drawn
    calm = rng.random() < 0.1
    strikes = () if calm else tuple(_strike(rng, shape) for _ in range(rng.choice((0, 1, 1, 2, 3, 5))))
    deaths = 0 if calm else rng.choice((0, 0, 1, 2, 4)) * max(1, shape.ranks // 100)
    return Schedule(
        seed=seed,
        shape=shape,
        config=_config(rng, shape),
        retune=rng.random() < 0.1,
        strikes=strikes,
        deaths_at=tuple((rng.expovariate(1 / 30.0), rng.randrange(shape.ranks)) for _ in range(deaths)),
        foreign_replacements=rng.random() < 0.03,
        fresh_deaths=rng.choice((0.0, 0.0, 0.1, 0.3)),
        slow_notice_s=rng.choice((0.01, 0.5, 3.0)),
        echoes=rng.random() < 0.3,
    )


def _strike(rng: random.Random, shape: Shape) -> Strike:
    kinds = ("dies", "dies_after", "node_dies", "hangs", "raises", "context_dies", "node_lost")
    method = rng.choice(METHODS)
    everyone = dict.fromkeys(("probe", "load", "replay", "warm", "confirm"), shape.ranks)
    often = {"tune": shape.tasks, "guard": shape.tasks, **everyone}
    kind = rng.choices(kinds, (12, 12, 6, 2, 2, 2, 6))[0]
    return Strike(kind, method, rng.randint(1, max(1, often.get(method, shape.nodes))))


def _config(rng: random.Random, shape: Shape) -> WarmupConfig:
    strategies = ["auto", "leader", "leader", "sharded", "sharded", "consensus"]
    if shape.ranks * shape.tasks < 5000:  # each rank measures every task: too much for a simulation of 1,000 ranks
        strategies.append("independent")
    return parse_config(
        {
            "cluster": {
                "world_size": shape.ranks,
                "backend": "cuda",
                "on_node_loss": rng.choice(("fail", "shrink", "shrink", "replace", "replace")),
            },
            "model": {"name": "llama-3.1-8b"},
            "autotune": {
                "enabled": rng.random() > 0.02,
                "strategy": rng.choice(strategies),
            },
            # Not drawn, so that a seed goes on to draw what it drew when it found something.
            "guard": {"enabled": rng.random() < 0.8, "judges": 1 + shape.ranks % 3},
            "cache": {"persistent": rng.random() < 0.85, "require_disk": False},
            "timeouts": {**dict.fromkeys(PHASES, PHASE_LIMIT_S), "task": TASK_LIMIT_S},
        }
    )


def build(schedule: Schedule) -> tuple[World, tuple[RankInfo, ...], random.Random]:
    """The cluster before the run: who is where, and what earlier runs left on the nodes."""
    rng, shape = random.Random(f"world {schedule.seed}"), schedule.shape
    places = [
        ActorLocation(bundle, f"node{bundle % shape.nodes:03d}", (str(bundle // shape.nodes),), f"10.0.0.{bundle}")
        for bundle in range(shape.ranks)
    ]
    infos = assign_ranks(places, "node000")
    others = random.Random(f"modules {schedule.seed}")
    modules = tuple(f"module{n}" for n in range(others.choice((0, 1, 3))))
    engine = random.Random(f"engine {schedule.seed}").random() < 0.3
    classes = [
        replace(_model_class(rng, index, shape.tasks), modules=modules, tunes_engine=engine)
        for index in range(shape.classes)
    ]
    by_node = rng.random() < 0.5
    shared = rng.choice((1, 1, 2, 4, shape.nodes))
    world = World(
        infos,
        classes,
        lambda rank: (infos[rank].node_rank if by_node else infos[rank].local_rank) % shape.classes,
        lambda node: int(node[4:]) // shared,
        rng,
    )
    for directory in range((shape.nodes - 1) // shared + 1):
        found = world.directories[directory] = _directory(rng, classes)
        found.modules = {rank_class.key: set(modules) for rank_class in classes if others.random() < 0.2}
    poor = random.Random(f"poor {schedule.seed}")
    for table in (table for directory in world.directories.values() for table in directory.tables.values()):
        table.is_poor = poor.random() < 0.2
    world.ships_modules = others.random() < 0.85
    world.tunes = schedule.config.autotune.is_enabled
    for node in sorted({info.node_id for info in infos}):
        world.workspaces[node] = {name for name in modules if others.random() < 0.2}
    if rng.random() < 0.2:
        world.slow_ranks = {rng.randrange(shape.ranks): rng.uniform(1.05, 2.0)}
    if rng.random() < 0.1:
        world.blindness = 0.3
    if rng.random() < 0.1:
        world.tight_ranks = {rng.randrange(shape.ranks)}
    if schedule.foreign_replacements:
        world.foreign_ranks = set(range(shape.ranks))
    return world, infos, rng


def _model_class(rng: random.Random, index: int, count: int) -> ModelClass:
    tasks = tuple(PoolTask(f"c{index}t{n}", f"op{n % 7}", 1.0 + rng.random()) for n in range(count))
    outcome: TaskOutcome = "no_valid_tactic" if rng.random() < 0.05 else "tuned"
    return ModelClass(f"{index:x}" * 64, {"gpu": f"GPU {index}", "tasks": "same"}, tasks, outcome)


def _directory(rng: random.Random, classes: list[ModelClass]) -> Directory:
    is_read_only = rng.random() < 0.08
    directory = Directory(is_read_only=is_read_only, lacks_files=is_read_only and rng.random() < 0.5)
    for rank_class in classes:
        if rng.random() < 0.25 and rank_class.outcome == "tuned":
            table = _old_table(rng, rank_class)
            if table is not None:
                directory.tables[rank_class.key] = table
        elif rng.random() < 0.15:
            some = [task for task in rank_class.tasks if rng.random() < 0.5]
            directory.partial[rank_class.key] = [make_result(task.task_id, rank_class.outcome, rng) for task in some]
    return directory


def _old_table(rng: random.Random, rank_class: ModelClass) -> Table | None:
    results = [make_result(task.task_id, "tuned", rng) for task in rank_class.tasks]
    guarded = rng.random() < 0.6
    verdicts = [make_verdict(row) for row in results]
    return Table.of(results, verdicts if guarded else [], guarded, -rng.uniform(1, 1e6))
