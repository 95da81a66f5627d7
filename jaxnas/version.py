"""The version, for the package, its run directories and the command line."""

__version__ = "0.1.0"
