"""Triton kernels of our own, each with a torch reference that computes the same thing.

`launch.py` decides how a kernel runs (compiled, interpreted, reference); the other modules hold one kernel each.
Importing this package imports neither torch nor Triton.
"""
