"""FlashInfer's releases by what this project touches in them: one frozen value per family, chosen by the version.

    seam_set    the value: names and signatures, form of a table, who else's modules are looked up
    known       the families whose source was read, and which family a version belongs to
    version_order   which release comes before which
    library     the one import of FlashInfer's AutoTuner, also for releases that ask for a GPU while they are imported

Other code asks the family and never compares version numbers. Only `library` imports torch and FlashInfer.
"""
