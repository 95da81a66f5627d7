"""One-shot search: methods, one file each, headed by its paper; their parts; the engine that runs them."""
