"""The commands: each parses its words, calls one public function, and prints."""
