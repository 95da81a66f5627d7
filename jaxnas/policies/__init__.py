"""Distributions over architectures that can be sampled, scored and trained."""
