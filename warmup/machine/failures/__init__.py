"""Failures: who is late or lost, why, and what it leads to.

    watchdog               ranks that are late, silent, or back
    policy                 what a failure leads to
    death_causes           whether a tactic is quarantined
    failure_window         failures that follow the first one
    failure_messages       text of failures

Which ranks take over, and what is measured again, is decided in `steps/` and `phases/`.
"""
