"""The cache commands as functions: list, verify, explain, diff, export, import, prune, roll back."""
