"""`python -m controller` is `virtsync`."""

from controller.cli.agent import main

if __name__ == "__main__":
    main(prog_name="virtsync")
