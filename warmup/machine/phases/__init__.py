"""Phases of a run: what each one asks its ranks, and when it is done.

    phase_logic            the base of each
    sequence               their order in a run, and where the run is
    probing, lookup, compiling   PROBING, LOOKUP, COMPILING
    tuning                 TUNING, GUARDING
    delivery               PUSHING, INSTALLING, LOADING, REPLAYING

What a death means in a phase is said there, too.
"""
