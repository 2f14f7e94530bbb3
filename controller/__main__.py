"""`python -m controller` is `virtsync`."""

from controller.cli import main

main()
