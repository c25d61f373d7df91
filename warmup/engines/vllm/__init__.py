"""The vLLM adapter: how it starts with random weights, where its plugin hooks in, where it looks, what identifies it.

In the engine's processes: `plugin`, `hooks`, `identity`, `factors`, `places`, `placing`, `counting`, `recording`.
Around an engine: `arguments`, `start`, `launch`, `collecting`. Only this package imports vLLM, inside functions.
"""
