"""Work of one process on one device: describe itself, tune, guard, pack, install, load, replay.

Nothing here imports Ray, and importing this package alone imports neither torch nor FlashInfer.
"""
