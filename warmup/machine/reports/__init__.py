"""Reports of a run: to whom it says what.

    summary, task_reports   the run as a `WarmupReport`, and its rows of tasks
    on_disk                whether every disk has the table at the end
    progress               what a run waits for, and how far it is

They read the state and change nothing but its warnings.
"""
