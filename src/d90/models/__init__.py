"""Models by name, and the weights that come from no checkpoint."""
