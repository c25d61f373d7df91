"""The node store: one directory per cache key, published atomically. `node_store.py` draws the layout."""
