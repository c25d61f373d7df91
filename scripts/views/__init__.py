"""Views: values as text for people.

    live_run, run_screen   a run under way: lines, JSON lines, one screen
    verdict, report        the end of a run: verdict first, then its summary
    engine_kinds, own_calls   what a real engine's start compiled, and what it asked FlashInfer for
    cache, quarantine      answers of `cache`
    node_table             a table of several nodes

They ask no cluster and decide no exit code.
"""
