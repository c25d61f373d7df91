"""TaskPool: shapes stay together, the longest comes first, a finished task is never dealt again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.machine.state.pool import PoolTask, TaskPool, spread


def make_tasks(*rows: tuple[str, str, float]) -> list[PoolTask]:
    """Tasks from (id, shape, cost)."""
    return [PoolTask(*row) for row in rows]


def test_a_rank_stays_in_its_group_longest_first() -> None:
    """The first rank gets the heaviest shape and works it off from its longest task down."""
    pool = TaskPool(make_tasks(("a1", "a", 1), ("b1", "b", 5), ("b2", "b", 6), ("a2", "a", 2)))
    assert [pool.deal(0), pool.deal(0), pool.deal(0)] == ["b2", "b1", "a2"]


def test_ranks_take_different_groups() -> None:
    """A second rank begins another shape instead of sharing the first one."""
    pool = TaskPool(make_tasks(("a1", "a", 1), ("a2", "a", 2), ("b1", "b", 2), ("b2", "b", 3)))
    assert [pool.deal(rank) for rank in (0, 1, 0, 1)] == ["b2", "a1", "b1", "a2"]


def test_a_dry_rank_takes_the_shortest_of_another() -> None:
    """With no shape left a rank takes the last waiting task of the shape with most work, here the shortest."""
    pool = TaskPool(make_tasks(("a1", "a", 1), ("a2", "a", 2), ("a3", "a", 3)))
    assert pool.deal(0) == "a3"
    assert pool.deal(1) == "a1"


def test_ranks_side_by_side_begin_at_different_places() -> None:
    """Four ranks with equal shapes never measure the same size at once, and each works off its whole shape."""
    pool = TaskPool(make_tasks(*((f"{shape}{size}", shape, size) for shape in "abcd" for size in range(8))))
    rounds = [[pool.deal(rank) for rank in range(4)] for _ in range(8)]
    assert [task[1:] for task in rounds[0] if task] == ["7", "3", "5", "1"]
    for dealt in rounds:
        assert len({task[1:] for task in dealt if task}) == 4
    for rank in range(4):
        assert len({task[0] for dealt in rounds if (task := dealt[rank])}) == 1
    assert pool.deal(0) is None


def test_a_rank_alone_goes_from_its_longest_down_in_every_group() -> None:
    """With nobody else at work there is nobody to keep away from."""
    pool = TaskPool(make_tasks(*((f"{shape}{size}", shape, size) for shape in "ab" for size in range(4))))
    assert [pool.deal(0) for _ in range(8)] == ["b3", "b2", "b1", "b0", "a3", "a2", "a1", "a0"]


def test_places_are_spread() -> None:
    """The first so many places are all different and fill the circle evenly."""
    assert [spread(number) for number in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]
    assert sorted(spread(number) * 16 for number in range(16)) == list(range(16))


def test_a_lost_rank_gives_back_what_it_had() -> None:
    """Tasks in flight wait again, the shape is free for another rank, finished tasks stay finished."""
    pool = TaskPool(make_tasks(("a1", "a", 1), ("a2", "a", 2), ("a3", "a", 3)))
    assert (pool.deal(0), pool.deal(0)) == ("a3", "a2")
    assert pool.finish("a3")
    assert pool.lose(0) == ("a2",)
    assert pool.lose(0) == ()
    assert sorted(str(pool.deal(1)) for _ in range(2)) == ["a1", "a2"]
    assert pool.deal(1) is None


def test_a_second_answer_does_not_count() -> None:
    """A task that was given back and is finished by its first rank after all is not dealt again."""
    pool = TaskPool(make_tasks(("a1", "a", 1)))
    assert pool.deal(0) == "a1"
    pool.lose(0)
    assert pool.finish("a1")
    assert not pool.finish("a1")
    assert not pool.finish("unknown")
    assert pool.deal(1) is None
    assert pool.is_done


def test_what_is_lent_is_of_shapes_that_can_be_measured_elsewhere() -> None:
    """A shape that nobody has begun first, then one stays on its replica; ranks take what was not lent."""
    pool = TaskPool(make_tasks(("a1", "a", 1.0), ("b1", "b", 5.0), ("b2", "b", 4.0), ("c1", "c", 9.0)))
    assert pool.deal(0) == "c1"
    assert pool.lend(1, ("a", "b")) == "b1"
    assert pool.lend(1, ("a", "b")) == "b2"
    assert pool.lend(2, ("b",)) is None
    assert pool.finish("c1")
    assert pool.deal(0) == "a1"
    assert pool.num_in_flight == 1


def test_nobody_waits_for_what_is_lent() -> None:
    """A rank with nothing else takes the task that was lent last; whoever is first counts."""
    pool = TaskPool(make_tasks(("a1", "a", 3.0), ("a2", "a", 2.0), ("a3", "a", 1.0)))
    assert [pool.lend(1, ("a",)), pool.lend(1, ("a",))] == ["a1", "a2"]
    assert pool.num_waiting == 3
    assert pool.deal(0) == "a3"
    assert pool.finish("a3")
    assert pool.deal(0) == "a2"
    assert not pool.settle("a2"), "a rank has begun it"
    assert pool.settle("a1")
    assert not pool.settle("a1")
    assert pool.finish("a2")
    assert pool.is_done


def test_what_a_replica_gives_back_waits_again() -> None:
    """It has refused it, or is gone."""
    pool = TaskPool(make_tasks(("a1", "a", 2.0), ("a2", "a", 1.0)))
    assert pool.lend(1, ("a",)) == "a1"
    pool.give_back(1)
    pool.lose(-1)
    assert [pool.deal(0), pool.deal(0)] == ["a1", "a2"]


STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(("deal", "finish", "lose"))), max_size=120)


@given(st.integers(0, 12), STEPS)
def test_every_task_is_finished_exactly_once(count: int, steps: list[tuple[int, str]]) -> None:
    """Whatever the order of deals, answers and losses: each task is dealt while unfinished only, and all are done."""
    pool = TaskPool(make_tasks(*((f"t{n}", f"g{n % 3}", float(n % 5)) for n in range(count))))
    held: dict[int, list[str]] = {0: [], 1: [], 2: []}
    done: set[str] = set()
    for rank, act in steps:
        if act == "deal" and (task := pool.deal(rank)) is not None:
            assert task not in done
            assert all(task not in others for others in held.values())
            held[rank].append(task)
        elif act == "finish" and held[rank]:
            task = held[rank].pop()
            assert pool.finish(task)
            done.add(task)
        elif act == "lose":
            assert sorted(pool.lose(rank)) == sorted(held[rank])
            held[rank] = []
        assert pool.num_running(rank) == len(pool.running(rank)) == len(held[rank])
        assert pool.num_waiting == count - len(done) - sum(map(len, held.values()))
    while not pool.is_done:
        for rank in held:
            while (task := pool.deal(rank)) is not None:
                held[rank].append(task)
            for task in held[rank]:
                assert pool.finish(task)
            held[rank] = []
    assert pool.num_done == pool.num_tasks == count


LENDING = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(("deal", "finish", "lose", "lend", "settle", "give back"))),
    max_size=120,
)


@given(st.integers(0, 12), LENDING)
def test_a_task_that_was_lent_counts_once(count: int, steps: list[tuple[int, str]]) -> None:
    """Ranks and two replicas take, finish, lose and give back in any order; no task is lost, none counts twice."""
    pool = TaskPool(make_tasks(*((f"t{n}", f"g{n % 3}", float(n % 5)) for n in range(count))))
    held: dict[int, list[str]] = {0: [], 1: [], 2: []}
    lent: dict[int, list[str]] = {1: [], 2: []}
    done: list[str] = []
    for number, act in steps:
        replica = max(1, number)
        if act == "deal" and (task := pool.deal(number)) is not None:
            assert task not in done
            held[number].append(task)
        elif act == "finish" and held[number]:
            done.append(held[number].pop())
            assert pool.finish(done[-1])
        elif act == "lose":
            pool.lose(number)
            held[number] = []
        elif act == "lend" and (task := pool.lend(replica, ("g0", "g1"))) is not None:
            assert task not in done
            lent[replica].append(task)
        elif act == "settle" and lent[replica] and pool.settle(task := lent[replica].pop()):
            done.append(task)
        elif act == "give back":
            pool.give_back(replica)
            pool.lose(-replica)
        assert pool.num_done == len(done) == len(set(done))
        assert pool.num_waiting == count - len(done) - sum(map(len, held.values()))
    while not pool.is_done:
        for task in held[0]:
            assert pool.finish(task)
        held[0] = []
        for rank in (1, 2):
            pool.lose(rank)
        while (task := pool.deal(0)) is not None:
            held[0].append(task)
