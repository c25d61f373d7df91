"""The runner's GEMMs ask FlashInfer's AutoTuner, on the CPU too."""

import tests.flashinfer_quietly  # noqa: F401
