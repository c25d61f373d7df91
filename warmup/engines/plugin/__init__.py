"""Plugin inside every process of an engine: hooks, lookup of an artifact, placing, counting of compilations."""
