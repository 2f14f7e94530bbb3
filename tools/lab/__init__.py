"""The lab: the real parts that the tests, the demo and the bench run on, each started by one command.

`python -m lab` lists the commands. Read `processes.py` first: whatever the lab starts, it starts through that.
"""

import click


class LabError(click.ClickException):
    """Something the user can put right; the message is one sentence and says how."""
