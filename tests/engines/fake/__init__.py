"""Packages that stand in for an engine; put on a child's import path, never imported by the tests themselves."""
