"""SGLang with `modelopt_fp8` on one GPU: its own table and this project's, side by side."""
