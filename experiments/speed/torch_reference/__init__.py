"""The same work in PyTorch and NNI, for an interpreter that has them. Imports nothing of jaxnas."""
