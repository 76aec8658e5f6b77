"""What is measured: d90, methods side by side, pretraining runs, few examples, latency, and what a tune changed."""
