"""Slow, independent twins of what d90 does fast, and the tables the contracts run over."""
