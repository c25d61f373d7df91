"""Tests mirror the tree; `fakes.py` has the stand-ins."""
