"""Searches over data that are no images: text, tables, several inputs."""
