"""`python -m fluvial.cli`, the same as `fluvial`."""

from fluvial.cli.main import main

main()
