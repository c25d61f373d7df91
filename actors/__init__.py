"""Everything that touches Ray: placement, rank actors, the coordinator, the driver's side.

The driver
    client, following                 connect, start a coordinator under its work's name, follow it to its report
    addresses, liveness, control_service   which cluster, whether the coordinator and the cluster live
    of_runs, of_questions             the connection of a run, and of a command that asks
    opening, closing                  how the latter begins and ends
    cancelling, planning              end a live run; the dry run
A run
    coordinator, engine_coordinator   one run with the built-in engine, with a real one; run_coordinator: their base
    coordinator_actor, driving, executor   its actor, the loop that steps its machine, the machine's commands
    event_stream, events              what the driver hears
    concluding, last_report, attempts, sigterm   the end, which always gives a report
    engine_run, engine_questions, engine_leases   driver, questions and leases of a run with a real engine
    task_sharing                      recorded calls that ranks of other replicas measure
Its processes
    process_actor, rank_actor, engine_launcher   the border to Ray, a rank, an engine's launcher
    rank_group                        all of them: start, call, replace, kill
    bundle_starter, ray_starter       an engine on a replica's GPUs: as a child, over vLLM's Ray executor
    transfer, remote_errors           bytes in the object store, errors as values
Resources
    membership                        the alive nodes
    capacity, accelerators, holders   whether the request fits, and who holds what it waits for
    placement, placing                the placement group, and the phase that waits for it
The registry, and processes that join
    registry, registry_client, registry_calls, engine_cluster   the actor, and who asks it
    stored_artifacts, registry_remote   what it finds on the nodes, and in the remote store
    warm_joiner, attaching, warm_replica, serve_llm, serve_llm_contract, syncing   processes and nodes become warm
Questions to nodes and runs
    node_task, node_caches, archive_moves, explaining   one function on every node, and the cache commands by it
    examination, node_examination, presence   `doctor`; whether this machine may be a node
    status, run_status, verdicts, waiting, run_logs, run_records   live and earlier runs
    metrics_export, live_metrics      metrics
Besides
    errors, local_nodes, ray_internals   errors between processes, nodes on one machine, private parts of Ray

`warmup/machine/` decides what happens next, and knows nothing of Ray.
"""
