"""What a TPU would do in a bilevel step: ours beside plain Flax versions of the same supernets."""
