"""Report of a run with a real engine, its summary and its metrics."""
