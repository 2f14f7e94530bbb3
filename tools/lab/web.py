"""GET requests to the HTTP servers that the lab has started on this machine."""

import http.client
from contextlib import closing


def get(port: int, path: str, *, timeout_s: float = 10) -> tuple[int, str]:
    """GET a path of the server on this port of 127.0.0.1: the status and the body.

    OSError or HTTPException if it does not answer, or if one read takes longer than the timeout.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
