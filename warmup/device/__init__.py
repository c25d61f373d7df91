"""FlashInfer's AutoTuner in one process, behind `warmup/device/flashinfer_tuner.py`.

    autotuner_seams, captured     the private seams, and one request to the AutoTuner as a value
    task_tuning, cpu_*            timing one task's tactics, on CUDA and on the CPU
    compose, loading, replay      results to table, table to AutoTuner, running what was loaded
    building                      compiling FlashInfer modules
    memory, device_context        how much there is, and whether the CUDA context lives
    host_facts, process_facts     the fingerprint, without and with torch

`host_facts`, `compose` and `scratch` import neither torch nor FlashInfer.
"""
