"""Processes and nodes become warm without a run of their own.

    warm_joiner         `ray_warmup.ensure_warm`: the process that calls it
    attaching           `ray_warmup.attach`: actors that exist already
    syncing             `ray-warmup sync`: every node of a cluster
    serve_llm_contract  what is used of Ray Serve LLM

Nothing here places a rank: whoever joins has its process and its GPU already.
"""
