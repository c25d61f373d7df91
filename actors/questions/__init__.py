"""Commands that ask nodes and runs, and change nothing.

    planning          `plan`: where ranks would land, and what they would find
    waiting           `wait`: until an engine may start on what lies on a node
    engine_requests   both questions about a request of a real engine
    verdicts          how runs ended, as they left it on the nodes
    run_records       the last runs of every node
    examination, node_examination   `doctor --cluster`: what asks, and what runs on each node

What a node answers is looked up by `warmup/`, in a task on that node or in the process that asks.
"""
