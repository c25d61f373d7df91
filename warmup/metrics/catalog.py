"""Every metric of this project.

`work` is the start of the digest of what a run was asked for, so equal requests share their series.
"""

from __future__ import annotations

from ray_warmup.warmup.metrics.metric import Metric

WORK_CHARS = 12
_RATIOS = (0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)
_WAITS = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)

RUN_START = Metric(
    "warmup_run_start_time_seconds", "gauge", "seconds", "When a live run began, since the epoch.", ("work",)
)
RUN_PHASE = Metric(
    "warmup_run_phase", "gauge", "", "1 for the phase of a live run, 0 for the one before.", ("work", "phase")
)
RUN_RANKS = Metric("warmup_run_ranks", "gauge", "", "Ranks of a live run by state.", ("work", "state"))
RUN_TASKS = Metric("warmup_run_tasks", "gauge", "", "Tasks of a live run, done or open.", ("work", "state"))

RUNS = Metric("warmup_runs_total", "counter", "", "Runs that ended, ready or failed.", ("work", "outcome"))
PHASE_SECONDS = Metric(
    "warmup_phase_seconds_total", "counter", "seconds", "Wall time of runs by phase.", ("work", "phase")
)
TASKS = Metric(
    "warmup_tasks_total",
    "counter",
    "",
    "Tasks of ended runs: a tuned tactic was kept, or the default.",
    ("work", "outcome"),
)
TASK_RESULTS = Metric(
    "warmup_task_results_total",
    "counter",
    "",
    "Tasks of ended runs: measured, or taken from before.",
    ("work", "origin"),
)
GUARD_DECISIONS = Metric("warmup_guard_decisions_total", "counter", "", "Decisions of the guard.", ("work", "decision"))
GUARD_SPEEDUP = Metric(
    "warmup_guard_speedup_ratio",
    "histogram",
    "ratio",
    "Default's time over the chosen one's, as geometric mean and worst of a class.",
    ("work", "statistic"),
    _RATIOS,
)
REQUESTS_RECORDED = Metric(
    "warmup_requests_recorded_total", "counter", "", "FlashInfer requests recorded in a real engine's start.", ("work",)
)
CACHE_SECONDS = Metric(
    "warmup_cache_install_seconds_total",
    "counter",
    "seconds",
    "Time to put compiled code in place, summed over nodes.",
    ("work", "kind"),
)
MOVED_BYTES = Metric(
    "warmup_moved_bytes_total", "counter", "bytes", "Bytes that nodes received of artifacts.", ("work", "kind")
)
LOOKUPS = Metric(
    "warmup_cache_lookups_total",
    "counter",
    "",
    "Lookups in tables and caches: hit or miss.",
    ("work", "kind", "result"),
)
DIVERGENT = Metric(
    "warmup_divergent_tables_total", "counter", "", "Classes of ranks that ended with different tables.", ("work",)
)

COMPILATIONS = Metric(
    "warmup_compilations_after_ready_total",
    "counter",
    "",
    "Kernels that a serving process compiled, or loaded from disk on first use, after it was ready.",
    ("process", "kind", "source"),
)

LEASE_WAIT = Metric(
    "warmup_lease_wait_seconds",
    "histogram",
    "seconds",
    "How long a process waited for the cluster's registry until it had the artifact, or the order to make it.",
    ("outcome",),
    _WAITS,
)
REGISTRY_LEASES = Metric("warmup_registry_leases", "gauge", "", "Artifacts that some process makes now.", ())
REGISTRY_KEYS = Metric("warmup_registry_keys", "gauge", "", "Keys that the registry knows an artifact of.", ())
REGISTRY_BYTES = Metric("warmup_registry_archive_bytes", "gauge", "bytes", "Archives in the registry's memory.", ())

CATALOG = (
    RUN_START,
    RUN_PHASE,
    RUN_RANKS,
    RUN_TASKS,
    RUNS,
    PHASE_SECONDS,
    TASKS,
    TASK_RESULTS,
    GUARD_DECISIONS,
    GUARD_SPEEDUP,
    REQUESTS_RECORDED,
    CACHE_SECONDS,
    MOVED_BYTES,
    LOOKUPS,
    DIVERGENT,
    COMPILATIONS,
    LEASE_WAIT,
    REGISTRY_LEASES,
    REGISTRY_KEYS,
    REGISTRY_BYTES,
)


def work_of(run_id: str) -> str:
    """Return the label `work` of a run, from its id or its coordinator's name."""
    words = run_id.removeprefix("warmup-").removeprefix("engine-")
    return words.partition("-")[0][:WORK_CHARS] or "unknown"
