"""Single requests that find out what an API server answers: no circuit breaker, no retry, no error for a status."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import urllib3
from kubernetes.client.exceptions import ApiException

from controller.api.json_mapping import Json
from controller.kube.client import cause, rest_client
from controller.kube.credentials import Credentials
from controller.kube.hosts.token import HostToken, host_token
from controller.runtime.errors import Transient

TIMEOUT_S = (60.0, 60.0)
"""The timeouts for connecting and for reading the response. The thread of a check may hang: see `run_all`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to one request."""

    status: int
    body: Json
    """Empty if it is not a JSON object."""
    clock_ahead_s: float | None
    """How many seconds this machine's clock is ahead of that of the API server; None: the response has no date.

    It is accurate to half a second, the resolution of the Date header, plus half the time of the request.
    """

    @property
    def granted(self) -> bool:
        """Whether the request succeeded."""
        return self.status < 400

    @property
    def message(self) -> str:
        """What the API server says about a request that failed."""
        return str(self.body.get("message") or f"the API server answered {self.status}")


class Probe:
    """Sends requests to an API server. Thread-safe."""

    def __init__(self, credentials: Credentials) -> None:
        self._access = credentials.current()
        self._client = rest_client(self._access)

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return self._access.server

    @property
    def host_token(self) -> HostToken | None:
        """What is in the token of an enrolled host; None: the token is of another user."""
        return host_token(self._access)

    def get(self, path: str) -> Answer:
        """Read something. Raises Transient if the API server does not answer."""
        return self._send("GET", path, None)

    def review(self, path: str, body: Json) -> Answer:
        """Send one of the SelfSubject reviews, which are POST requests that store nothing. Raises Transient."""
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Json | None) -> Answer:
        headers = self._access.headers | {"Accept": "application/json", "Content-Type": "application/json"}
        sent, began_s = datetime.now(UTC), time.monotonic()
        try:
            answer = self._client.request(
                method, f"{self._access.server}{path}", headers=headers, body=body, _request_timeout=TIMEOUT_S
            )
            text = answer.read()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            raise Transient(f"{self.server} does not answer: {cause(error)}") from error
        took_s = time.monotonic() - began_s
        return Answer(answer.status, _json(text), _clock_ahead_s(answer.headers.get("Date"), sent, took_s))


def _json(text: bytes) -> Json:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _clock_ahead_s(date: str | None, sent: datetime, took_s: float) -> float | None:
    try:
        server = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    # The API server wrote its time, without the fraction of a second, between the request and the response.
    return (sent - server).total_seconds() + took_s / 2 - 0.5
