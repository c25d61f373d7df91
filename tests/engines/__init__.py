"""Tests with real engines, their wheels and their package metadata."""
