"""Signatures of artifacts: who made one, and whether this node believes that."""
