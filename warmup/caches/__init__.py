"""Compiled code as blobs: modules of FlashInfer, entries of Triton, what engines compile, the cache of the driver.

Each cache kind collects contents on the node that compiled them and installs them on another, so that nothing is
compiled there. `artifact_install.py` installs a whole artifact. `environment.py` names the variables that a process
needs to find it.

Every kind of cache that an engine fills at its start, one row each. *Where* is vLLM's directory, *moves* what makes an
entry fit in another home, *equal* what must be equal there beside the key of the start, *hit* what proves it.

    autotune_configs: FlashInfer's table. carried on H200
        where: $VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR or $VLLM_CACHE_ROOT/flashinfer_autotune_cache, a file per rank (v1);
            FlashInfer's managed store on one GPU (v2). moves: nothing, entries hold no path. equal: FlashInfer, CUDA,
            cuBLAS, cuDNN, GPU. hit: lookups of the engine's own calls (`engines/vllm/autotune.py`)
    flashinfer_module: FlashInfer's shared libraries. carried on H100
        where: $FLASHINFER_WORKSPACE_BASE/.cache/flashinfer. moves: FlashInfer's lookup of ahead-of-time modules
            (`flashinfer_modules.py`). equal: FlashInfer, CUDA, architecture, C library. hit: no build is heard
    triton_cache: entries of Triton's cache, wherever the start keeps it. carried on H200
        where: $TRITON_CACHE_DIR, $TRITON_HOME/.triton/cache, or below the key of a cold compilation. moves: paths in
            group files are rewritten (`triton_cache.py`). equal: Triton, ptxas, architecture. hit: Triton's listener
    torch_compile: a rank's ahead-of-time file. carried on H200
        where: $VLLM_CACHE_ROOT/torch_compile_cache/torch_aot_compile/<key>/rank_*. moves: placing under the key of
            this start. equal: engine, torch, Triton, Python, GPU name, configuration. hit: vLLM's own counters
    inductor: code and graph caches beside that file. carried on H200
        where: <key>/inductor_cache. moves: placing beside the file. equal: the same. hit: no new result appears
    inductor_home: the same, of graphs that are compiled before there is a key. carried on H200
        where: $TORCHINDUCTOR_CACHE_DIR or $TMPDIR/torchinductor_$USER. moves: nothing. equal, hit: the same
    deep_gemm: one directory a kernel. carried on H200
        where: the first of $DG_JIT_CACHE_DIR, or $VLLM_CACHE_ROOT/deep_gemm. moves: its mark `.committed` is written
            anew. equal: `nvcc --version`, CUTLASS, headers, all in its key. hit: no new result appears
    trtllm_deep_gemm: the same of FlashInfer's TensorRT-LLM. carried on H200
        where: $TRTLLM_DG_CACHE_DIR or ~/.tensorrt_llm. moves: nothing. equal: FlashInfer, CUDA and GPU by the key of
            the start; its names have no version, and a cubin of another nvcc is loaded. hit: no new result appears
    modelinfos: one JSON file about a model class. carried on H200
        where: $VLLM_CACHE_ROOT/modelinfos. moves: nothing. equal: the engine's digest of the model's source.
            hit: the engine's lookup
    sglang_jit: one directory of a module's build, of SGLang alone. carried on H200
        where: $SGLANG_JIT_CACHE_DIR. moves: nothing. equal: its name is the digest of all that it was built from.
            hit: no new result appears

    flashinfer cached_ops: left out because ninja rebuilds a moved directory: its state holds absolute paths and header
        times (its modules are carried as flashinfer_module)
    compile directories without ahead-of-time files: left out because their key holds the absolute paths of the traced
        sources
    CuTe-DSL: left out because `cute.compile` never reads the disk cache; other entries may hold source locations
    humming: left out because the key holds absolute include paths and their modification times
    tvm-ffi: left out because ninja build directories with absolute paths
    TileLang: left out because no model that was recorded fills it
    FlashAttention 4: left out because its disk cache is off by default
    quack: left out because no model that was recorded fills it
    MInfer attention: left out because for Blackwell alone
    CUDA driver: left out because wheels carry machine code for Hopper; the built-in engine's is carried as
        cuda_compute_cache
    startup plan: left out because applies only where as many bytes of memory are free as at the recording
"""
