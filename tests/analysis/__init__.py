"""The analyses, against independent references and by simulation."""
