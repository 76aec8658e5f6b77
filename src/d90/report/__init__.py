"""Self-contained pages and their figures, made from stored runs alone."""
