"""Hypothesis without its clock: a loaded machine is no failure of a property."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")
