"""The model-runner protocol that the engine warmups drive, and a small real runner that satisfies it.

`protocol.py` is the interface that an engine's own runner must implement. `schedule.py`, `kv_cache.py` and
`padded_sizes.py` are pure values. `builtin.py` assembles the runner from `input_batch.py` (requests and persistent
buffers), `block_table.py`, `attention.py` / `mla.py` (FlashInfer's paged wrappers on CUDA, torch on CPU),
`transformer.py` with `projections.py` (its GEMMs and experts, through the tuned ops), and `sampler.py`. Importing this
package imports neither torch nor FlashInfer.
"""
