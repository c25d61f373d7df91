"""A run's processes as Ray actors.

    process_actor     the border between a process and Ray: questions, answers, bytes, heartbeats
    rank_actor        a rank
    engine_launcher   the launcher of a replica of a real engine
    bundle_starter    starts that engine as a child process on the GPUs of the replica's bundles
    ray_starter       starts it over vLLM's Ray executor
    rank_group        all processes of a run: create, call, replace, kill
    logs              what they logged

What a process does is `warmup/rank/`'s and `warmup/engines/launcher/`'s.
"""
