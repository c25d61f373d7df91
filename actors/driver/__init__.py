"""The side that asks for a run.

    warmup_run, engine_run  one run with the built-in engine, and with a real one
    coordinator_actor       creates a run's coordinator, and gives it back
    following, liveness     follow the coordinator to its report, and tell whether it lives
    announcing              tell the registry what a run has left
    status                  where the live runs of a cluster stand
    cancelling              end a live run

The driver holds no bytes of an artifact and touches no device: it usually runs on a node without a GPU.
"""
