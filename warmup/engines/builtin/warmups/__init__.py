"""Start-up warmups of an engine besides tuning, and the monitor that checks for later compilations.

    slot_mapping      input preparation kernels                          sm120_decode    tunes sparse MLA on SM120
    prefill_decode    whole steps through the worker's own callables     sparse_mla      its attention shapes
    serving_shapes    padded sizes, LM head, decode sizes                graph_capture   captured decodes, on CUDA
    sampler_features  whatever requests may ask for

`all_warmups.py` lists them. `run.py` runs them inside `envelope.py`, which leaves no trace. `ray_warmup.monitor` counts
compilations.
"""
