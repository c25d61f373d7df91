"""vLLM: plugin, arguments, identity, and the processes that start and resolve it.

In the engine's processes: `plugin`, `hooks`, `process`, `identity`, `factors`, `places`, `autotune`.
In the child process of a launcher: `start`, `trial`, `resolve`, `arguments`, `argument_check`, `word_embeddings`.
Only this package imports vLLM, inside functions.
"""
