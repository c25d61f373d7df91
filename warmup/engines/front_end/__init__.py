"""Child processes: of an engine, with what it is asked and its trial requests; of ranks that measure without one."""
