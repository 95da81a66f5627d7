"""What a long run leaves on disk and needs beside its steps. What reads a run directory is found here."""

from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.reading import (
    free,
    read_config,
    read_ended,
    read_history,
    read_result,
    read_space,
    read_weights,
    resumable,
    seed_folder,
    stage_folder,
    status,
    tidy,
    trainings,
    working,
)

__all__ = [
    "RunDirectory",
    "free",
    "read_config",
    "read_ended",
    "read_history",
    "read_result",
    "read_space",
    "read_weights",
    "resumable",
    "seed_folder",
    "stage_folder",
    "status",
    "tidy",
    "trainings",
    "working",
]
