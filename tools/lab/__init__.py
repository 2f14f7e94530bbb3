"""The lab: the real parts that the tests, the demo and the bench run on, each started by one command.

`python -m lab` lists the commands. Read `processes.py` first: the lab starts every process through it.
"""

import click


class LabError(click.ClickException):
    """An error that the user can fix; the message is one sentence and says how."""
