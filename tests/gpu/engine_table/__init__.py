"""Measured starts of vLLM with this project's own commands: what the table that leads the README is made of."""
