"""Bounds on a true error, or on bits per token, from the training examples alone."""
