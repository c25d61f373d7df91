"""A function for the CuTe-DSL to compile; it must live in a file, because its source is read."""

from cutlass import Int32, cute


@cute.jit
def add_one(value: Int32):
    """Prints at run time."""
    cute.printf("{}", value + 1)
