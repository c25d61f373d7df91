"""Artifacts: a manifest with content-addressed blobs, their packing and checks, archives and image layouts."""
