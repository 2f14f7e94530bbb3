"""`python -m controller` is `virtsync`."""

from controller.cli import main

if __name__ == "__main__":
    main(prog_name="virtsync")
