"""Where trials are kept, and where they run."""
