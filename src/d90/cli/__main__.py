"""`python -m d90.cli` is the command `d90`."""

from d90.cli.main import main

main()
