"""One run in its coordinator, an actor on the head node.

    coordinator, engine_coordinator   a run with the built-in engine, and with a real one
    coordinator_base        what both share
    driving, executor       the loop that steps the machine, and what carries out its commands
    task_sharing            recorded calls that ranks of other replicas measure
    engine_leases           leases at the registry of a run with a real engine
    events, event_stream    what a driver hears
    status, live_metrics    where a live run stands, and its gauges
    concluding, last_report, attempts   the end, which always gives a report

What happens next is decided by `warmup/machine/` and `warmup/engines/machine/`.
"""
