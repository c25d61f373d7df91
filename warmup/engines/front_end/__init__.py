"""Child processes of a launcher: an engine with its trial requests, its resolution, ranks that measure without one."""
