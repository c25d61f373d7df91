"""Artifacts in a place that outlives every node: a shared directory or an object store, through fsspec."""
