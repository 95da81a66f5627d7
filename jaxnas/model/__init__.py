"""What a model author touches: choices, spaces, architectures and their files; and a model as pure functions."""
