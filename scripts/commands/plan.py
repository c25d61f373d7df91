"""`plan`: the prediction as tables or JSON."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.actors.driver.warmup_run import check_request
from ray_warmup.configs import WarmupConfig
from ray_warmup.scripts.terminal.console import add_row, say, table_of, wide_console
from ray_warmup.scripts.terminal.documents import print_document


def plan_and_show(config: WarmupConfig, *, as_json: bool) -> int:
    """Predict and print the ranks.

    Returns 0 if the cluster answered and the ranks fit.
    """
    config = check_request(config)
    with connected(config):
        from ray_warmup.actors.questions.planning import predict

        plan = predict(config)
    if as_json:
        print_document(plan.to_json())
        return 0
    console = wide_console()
    columns = ("rank (predicted)", "node", "address", "role", "class", "table")
    table = table_of(*columns, title=f"predicted ranks (backend {plan.backend})")
    for rank in plan.ranks:
        found = "hit" if rank.hit else "miss"
        add_row(table, rank.rank, rank.node_id[:8], rank.address, rank.role, rank.key[:12], found)
    console.print(table)
    for path, reason in dict.fromkeys((rank.table_path, rank.reason) for rank in plan.ranks):
        say(console, _found(path, reason))
    for group in plan.classes:
        say(
            console,
            f"class {group.key[:12]}: ranks {list(group.ranks)}, leader {group.leader}, strategy {group.strategy}, "
            f"{group.num_tasks} tasks{' (found: none would be measured)' if group.would_hit else ''}",
        )
        for workload in group.workloads:
            say(console, f"  {workload}")
        for reason in group.skipped:
            say(console, f"  skipped {reason}")
        for outcome in dict.fromkeys(group.engine.values()):
            names = ", ".join(name for name, other in group.engine.items() if other == outcome)
            say(console, f"  engine warmups {names}: {outcome}")
    return 0


def _found(path: str, reason: str) -> str:
    """Say what a run would find at a table's path. A reason that names the directory stands alone."""
    if not reason:
        return f"{path}: would be a hit"
    if str(Path(path).parent) in reason:
        return f"miss: {reason}"
    return f"{path}: {reason}"
