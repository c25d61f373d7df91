"""SGLang: what is used of its releases."""
