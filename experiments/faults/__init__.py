"""Faults injected into runs of every kind: kills, power cuts, damaged files; and what becomes of the runs."""
