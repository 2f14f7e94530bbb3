"""The three ways in which the world says no: Transient, with two kinds of its own, Rejected and Vanished.

Adapters raise nothing else.
"""


class Transient(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """No answer, or one that may be another later: try again."""

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """How long whoever answered asks to be left alone; 0 where that was not said."""


class Rejected(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """A clear no: trying again changes nothing until something else does."""


class Vanished(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """The thing itself is gone."""


class Conflicted(Transient):
    """Somebody wrote the object in between: read it again, decide again."""


class CircuitOpen(Transient):
    """Whoever would have to answer has answered nobody of late, and was not asked."""
