"""Process of one rank: its phases, its records, and the prediction of both.

    process, answering        the methods of a rank, and which question each answers
    probed_rank, rank_setup, rank_workloads, description   PROBING: tasks, key, store, what the machine is told
    found_artifact, missing_tasks   LOOKUP
    compiled_work, module_build     COMPILING
    engine                    TUNING by an engine's step, and the engine warmups
    packing, artifact_collector, fresh_replay, stored_tuning_kernels   PUSHING: the table, and compiled code beside it
    delivery, published_artifact    INSTALLING and LOADING
    activity, crash_recorder, process_end   what a rank does now, for its successor; the end of one that hangs
    rank_files, notice, costs       files of a run, the verdict for readers without Ray, seconds of earlier tunes
    forecast, locations, table_state, readiness   the same without a run: key, directories, what stands there
    in_process_run            a run of one rank in the process that serves

Nothing here imports Ray; `actors/processes/rank_actor.py` wraps a rank.
"""
