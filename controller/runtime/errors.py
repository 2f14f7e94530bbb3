"""How a call to libvirt or the API server can fail: Transient (with two subclasses), Rejected or Vanished.

Adapters raise no other exceptions.
"""


class Transient(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """No answer, or an answer that might change: the call can be retried."""

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds that the server asked to wait (`Retry-After`); 0: it did not ask."""


class Rejected(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """A refusal: a retry fails again until something else changes."""


class Vanished(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """The object or domain no longer exists."""


class Conflicted(Transient):
    """Another writer changed the object first (HTTP 409): read it again and decide again."""


class CircuitOpen(Transient):
    """The circuit breaker is open: the server has not answered recent requests, so this one was not sent."""
