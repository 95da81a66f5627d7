"""DARTS on CIFAR-10: search for cells, and training of the result.

`python -m experiments.darts --help`
"""
