"""What one-shot methods are assembled from."""
