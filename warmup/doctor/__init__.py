"""Checks of one node before something goes wrong there."""
