"""Trials and where they are kept."""
