"""The commands: each parses, calls one public function, and prints. `d90.cli.main` gathers them."""
