"""Interface to one engine: its facts, the parts of its source that are used, its build directories."""
