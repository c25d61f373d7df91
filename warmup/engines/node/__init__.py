"""Answers of a node about engines and requests: what is installed, recorded, and would be done."""
