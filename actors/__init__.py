"""Everything that touches Ray. `warmup/machine/` decides what happens next, and knows nothing of Ray.

Packages, from above to below; an import only goes down (`pyproject.toml`):

    serve_llm, warm_replica  the names that an application on Ray Serve writes
    joining       processes and nodes become warm without a run of their own
    questions     commands that ask nodes and runs, and change nothing
    driver        the side that asks for a run: starts it, follows it to its report, ends it
    run           the coordinator of one run, from its first node to its report
    processes     a run's processes as Ray actors
    registry      the actor that knows a cluster's artifacts, and who asks it
    stores        artifacts in the stores of every node
    placement     resources of a run: whether the request fits, and the placement group
    connection    a process's connection to a cluster
    cluster       nodes, tasks, bytes, metrics and errors of Ray as all of the above use them
    errors        errors between processes, and exit codes

A loose file is a name that others write: of an application, or of every process.
"""
