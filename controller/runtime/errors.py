"""The exceptions of calls to libvirt and to the API server: Transient (with subclasses), Rejected and Vanished.

The adapters (hypervisor/, kube/) convert the errors of their libraries to these.
"""


class Transient(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """The server did not answer, or it gave an answer that might change: the caller can retry."""

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """How many seconds the server asked the client to wait (`Retry-After`); 0: it did not ask."""


class Rejected(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """The server refused the request: a retry fails too, until something else has changed."""


class Vanished(Exception):  # noqa: N818 - an outcome that callers read: "raises Transient"
    """The object or domain no longer exists."""


class Unsent(Transient):
    """The request was not sent, because the server did not answer before: nothing was done."""


class Lingers(Transient):
    """libvirt no longer has the domain, but its QEMU process has not exited."""


class Conflicted(Transient):
    """Another writer changed the object first (HTTP 409): the caller must read the object and decide again."""


class Unserved(Transient):
    """The server has no such kind of object (HTTP 404 for the kind): its definition is missing."""


class Forbidden(Transient):
    """The server does not allow this request to this user (HTTP 403)."""


class Behind(Transient):
    """The server's copy of the objects is older than the version that the request names (HTTP 504)."""


class CircuitOpen(Transient):
    """The circuit breaker is open: several connections have failed since the last response. Nothing was sent."""


class Uncertain(Transient):
    """The request was sent, and no answer says what has become of it: it may have been carried out."""
