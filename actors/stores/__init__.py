"""Artifacts in the stores of every node, listed, packed and changed by one task on each node.

    artifacts         list and pack what the stores hold
    cache_commands    `ray-warmup cache ... --cluster`
    archive_moves     its `export` and `import`
    explaining        its `explain`

What is done on a node is `warmup/cache_admin/`'s.
"""
