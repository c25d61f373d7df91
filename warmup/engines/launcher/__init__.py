"""Launcher of a replica: records an engine, collects its caches, installs and proves them."""
