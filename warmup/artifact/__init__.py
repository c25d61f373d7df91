"""Artifacts: a manifest with content-addressed blobs, their packing and checks, and one-file archives. Pure bytes."""
