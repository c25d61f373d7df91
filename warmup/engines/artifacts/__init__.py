"""Recorded artifacts of engines on a node: store, contents, notes beside them, index of requests."""
