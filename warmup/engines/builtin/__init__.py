"""The built-in engine: a model runner with random weights, what an engine warms at its start, and its kernels."""
