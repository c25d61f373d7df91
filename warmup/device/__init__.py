"""FlashInfer's AutoTuner in one process, behind the protocol of `tuner`.

    tuner, factory            the protocol, and the choice of its implementation by name
    flashinfer_tuner          the implementation, on CUDA and on the CPU
    autotuner_seams, tuning_request   the private seams, and one request to the AutoTuner as a value
    task_tuning, stopwatch, cpu_measure, reference_gemm   timing a task's tactics, and a device beside its peers
    compose, loading, managed_store, replay   results to table, table to AutoTuner, running what was loaded
    default_entries           entries of a table for what is not tuned
    request_recorder, rebuilding, table_proof   an engine's requests: kept, made again, proven to be served
    building                  compiling FlashInfer modules
    memory, memory_budget, device_context   how much there is, what fits, and whether the CUDA context lives
    host_facts, process_facts   the fingerprint, without and with torch
    scratch                   a private directory
    guard                     checks of what was tuned

`host_facts`, `compose` and `scratch` import neither torch nor FlashInfer.
"""
