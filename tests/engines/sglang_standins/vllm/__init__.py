"""A stand-in for the one function of vLLM that SGLang calls on a processor without AMX."""
