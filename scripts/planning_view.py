"""`plan`: the prediction as tables or JSON."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from ray_warmup.actors.client import check_request, connected
from ray_warmup.configs import WarmupConfig
from ray_warmup.scripts.terminal import wide_console


def plan_and_show(config: WarmupConfig, *, as_json: bool) -> int:
    """Predict and print; always 0 when the cluster could be asked and the ranks fit."""
    check_request(config)
    with connected(config):
        from ray_warmup.actors.planning import predict

        plan = predict(config)
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=2))
        return 0
    console = wide_console()
    table = Table(title=f"predicted ranks (backend {plan.backend})")
    for name in ("rank (predicted)", "node", "address", "role", "class", "table"):
        table.add_column(name)
    for rank in plan.ranks:
        found = "hit" if rank.hit else "miss"
        table.add_row(str(rank.rank), rank.node_id[:8], rank.address, rank.role, rank.key[:12], found)
    console.print(table)
    for path, reason in dict.fromkeys((rank.table_path, rank.reason) for rank in plan.ranks):
        console.print(f"{path}: {reason or 'would be a hit'}", highlight=False, soft_wrap=True, markup=False)
    for group in plan.classes:
        console.print(
            f"class {group.key[:12]}: ranks {list(group.ranks)}, leader {group.leader}, strategy {group.strategy}, "
            f"{group.num_tasks} tasks{' (found: none would be measured)' if group.would_hit else ''}",
            highlight=False,
            soft_wrap=True,
        )
        for workload in group.workloads:
            console.print(f"  {workload}", highlight=False, soft_wrap=True, markup=False)
        for reason in group.skipped:
            console.print(f"  skipped {reason}", highlight=False, soft_wrap=True, markup=False)
        for outcome in dict.fromkeys(group.engine.values()):
            names = ", ".join(name for name, other in group.engine.items() if other == outcome)
            console.print(f"  engine warmups {names}: {outcome}", highlight=False, soft_wrap=True, markup=False)
    return 0
