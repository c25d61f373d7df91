"""Child process that imports an engine: what it is asked, how it resolves a request, its trial requests."""
