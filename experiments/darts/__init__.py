"""DARTS on CIFAR-10: search for cells, and training of what was found.

`python -m experiments.darts --help`
"""
