"""Entry points: the command line and the job script. No logic of its own.

    cli                    `ray-warmup`: run, plan, path, wait, status, show
    cache_cli, quarantine_cli, remote_cli, config_cli, doctor_cli, engine_cli, key_cli   commands of these names
    registry_cli, report_cli, runs_cli        `registry` and `sync`, `report`, and `cancel`, `logs`, `history`
    run_command, engine_run_command   `run` with either engine; run_options, run_ending, run_view, run_screen: its parts
    cache_scope, scope_options        on which nodes a cache command works
    endings, console, documents, node_table   messages and exit codes, safe printing, JSON, tables of many nodes
    cache_view, env_view, planning_view, report_view, status_view, status_watch, table_view, verdict_view   their output
    engine_view, engine_kinds_view, engine_questions_view, own_calls_view   output about real engines
    report_file, report_page, page_document, engine_page, report_compare, reports   reports as files, pages, differences
    run_warmup, shell_command         a Ray job's entry point; output that a shell evaluates

Each command imports what it needs when it runs, so that `--help` is quick.
"""
