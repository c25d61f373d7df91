"""Benchmarks of the product: each prints both sides of its comparison and writes what it measured."""
