"""Identity of an engine start: its parts, how two differ, and what a request resolves to."""
