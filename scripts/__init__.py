"""Entry points: the command line, the job script, benchmarks. No logic of its own."""
