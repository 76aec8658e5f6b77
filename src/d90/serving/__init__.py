"""Many tunes on one base: a Bank that switches between them, or gives each row of a batch its own."""
