"""What is still compiled after a process is ready: hooks, counts, and records that other processes can read."""
