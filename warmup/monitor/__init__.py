"""Count compilations after a process is ready: hooks, counts, and records for other processes."""
