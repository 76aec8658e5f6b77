"""The one training loop: its recipe, batches, progress, and a finished tune opened again."""
