"""Start of an engine as a child process: its directories, its devices, its deadline, the message of its exit."""
