"""SGLang: plugin, arguments, identity, and the processes that start and resolve it.

Only its own processes import what imports SGLang; what a run needs of it is `adapter.py`.
"""
