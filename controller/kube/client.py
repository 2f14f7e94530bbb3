"""Sends requests to the API server. All threads share one client. It raises only exceptions of `runtime.errors`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import urllib3
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTClientObject

from controller.api.json_mapping import Json
from controller.api.names import AGENT, HYPERVISOR_KIND, HYPERVISOR_PLURAL, KIND, PLURAL
from controller.kube.access import SOCKET_OPTIONS, Access, basic
from controller.kube.credentials import Credentials, Reader
from controller.kube.kubeconfig import Kubeconfig, default_file, of_pod
from controller.runtime.errors import (
    Behind,
    CircuitOpen,
    Conflicted,
    Forbidden,
    Rejected,
    Transient,
    Uncertain,
    Unserved,
    Vanished,
)

TIMEOUT_S = (3.0, 10.0)
"""The timeouts for connecting and for reading the response. The kubernetes client has no default timeout."""
CIRCUIT_OPENS_AFTER = 5
"""The circuit opens when this number of connections have failed since the last response."""
HALF_OPEN_EVERY_S = 1.0
"""While the circuit is open, one request in this time is sent, unless the caller schedules the probes."""
MAX_RETRY_AFTER_S = 30.0
POOL_SIZE = 32
JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
BEHIND = "ResourceVersionTooLarge"
"""The cause in the answer to a list that names a version which the API server's watch cache does not have yet."""
UNSENT = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
)
"""What is raised before a request is sent."""
KINDS = {PLURAL: KIND, HYPERVISOR_PLURAL: HYPERVISOR_KIND}


class Api:
    """Sends requests to the API server, with a circuit breaker. Thread-safe.

    Without the circuit breaker, the agent would continue to send requests for each VM of the node. Only failed
    connections open the circuit. A slow API server, which accepts connections but does not respond in time, does not
    open the circuit.

    While the circuit is open, one request in `HALF_OPEN_EVERY_S` is sent, and closes the circuit if the API server
    responds: so whoever asks again finds the end of an outage. With `scheduled_probes`, only `probe` sends requests.
    The agents need that: all agents of a cluster lose the API server together, and their many workers would send far
    more than their probes, which have a backoff and jitter (agent/outage.py). A command or a manager is one process.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        throttled: Callable[[], None] = lambda: None,
        scheduled_probes: bool = False,
    ) -> None:
        """`throttled` is called, on any thread, for each response with which the API server limits the rate (429).

        `scheduled_probes`: the caller calls `probe` while the circuit is open.
        """
        self.credentials, self.throttled, self._scheduled_probes = credentials, throttled, scheduled_probes
        self._next_attempt_s = float("-inf")
        """The monotonic time from which the open circuit lets the next request through."""
        self._lock = threading.Lock()
        access = credentials.current()
        self._client = access, rest_client(access)
        self._failed_connections, self._why_open = 0, ""
        self._failing = self._recovered = False

    @property
    def circuit_open(self) -> bool:
        """Whether `CIRCUIT_OPENS_AFTER` connections have failed since the last response."""
        return self._failed_connections >= CIRCUIT_OPENS_AFTER

    def probe(self) -> bool:
        """Send one request, even if the circuit is open. Return whether the API server responded, with any status."""
        try:
            self._send("GET", "/version", {"Accept": JSON}, None)
        except Transient:
            return False
        return True

    def note_answer(self, *, good: bool) -> None:
        """Record whether a request succeeded, or failed for a reason that affects all requests.

        Do not call this after a failure that affects only one request. The watch calls this for its own requests.
        """
        with self._lock:
            if not good:
                self._failing = True
            elif self._failing:
                self._failing, self._recovered = False, True

    def take_recovery(self) -> bool:
        """Return whether a request has succeeded after a failed one since the last call of this method."""
        with self._lock:
            recovered, self._recovered = self._recovered, False
        return recovered

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        read_timeout_s: float | None = None,
        **query: str,
    ) -> Json:
        """Send one request and return the JSON object of the response. Raises as `request_text`."""
        return as_json(
            self.request_text(
                method, path, body, content_type=content_type, accept=accept, read_timeout_s=read_timeout_s, **query
            )
        )

    def request_text(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        read_timeout_s: float | None = None,
        **query: str,
    ) -> bytes:
        """Send one request and return the body of the response.

        After a 401, renews the credentials and sends the request again if they have changed. Raises Conflicted,
        Vanished, Rejected, Unserved, Behind, Transient (also after a redirect, which is never followed), Uncertain (as
        if the API server sends nothing for `read_timeout_s`, by default `TIMEOUT_S`), and, without sending a request,
        CircuitOpen.
        """
        if self.circuit_open and not self._half_open():
            raise CircuitOpen(self._why_open)
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        target = path + (f"?{urlencode(query)}" if query else "")
        status, text, retry_after_s, access = self._send(method, target, headers, body, read_timeout_s)
        if status == 401 and self.credentials.renew(access) is not access:
            status, text, retry_after_s, _ = self._send(method, target, headers, body, read_timeout_s)
        if status < 300:
            self.note_answer(good=True)
            return text
        if status == 429:
            self.throttled()
        error = _error(access.program, path, status, text, retry_after_s)
        if status < 400 or status in {401, 429} or (status >= 500 and not isinstance(error, Behind)):
            self.note_answer(good=False)
        raise error

    def _half_open(self) -> bool:
        """Whether the open circuit lets a request through now. Then it lets no other one through for some time."""
        now_s = time.monotonic()
        with self._lock:
            if self._scheduled_probes or now_s < self._next_attempt_s:
                return False
            self._next_attempt_s = now_s + HALF_OPEN_EVERY_S
        return True

    def stream(self, path: str, *, read_timeout_s: float, **query: str) -> urllib3.HTTPResponse:
        """Send one GET, and return the response before its body is there. The caller closes it.

        Raises as `request`, but does not renew the credentials. Reading the body raises exceptions of urllib3, also if
        nothing comes for `read_timeout_s`.
        """
        access, client = self._connected()
        target, timeout_s = f"{path}?{urlencode(query)}", (TIMEOUT_S[0], read_timeout_s)
        try:
            answer: urllib3.HTTPResponse = client.request(
                "GET",
                f"{access.server}{target}",
                headers=_headers({"Accept": JSON}, access),
                _request_timeout=timeout_s,
            ).response
            if answer.status < 300:
                return answer
            text = answer.read()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            raise Transient(f"the API server does not answer: {cause(error)}") from error
        raise _error(access.program, path, answer.status, text, _retry_after_s(answer.headers.get("Retry-After")))

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Json | None,
        read_timeout_s: float | None = None,
    ) -> tuple[int, bytes, float, Access]:
        """Send one request. Raises Transient; Uncertain if the request may have arrived.

        Returns the status, body and Retry-After of the response, and the access that the request used.
        """
        access, client = self._connected()
        try:
            answer = client.request(
                method,
                f"{access.server}{path}",
                headers=_headers(headers, access),
                body=body,
                _request_timeout=(TIMEOUT_S[0], read_timeout_s or TIMEOUT_S[1]),
            )
            text = answer.read()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            self.note_answer(good=False)
            why = f"the API server does not answer: {cause(error)}"
            if not isinstance(error, urllib3.exceptions.ReadTimeoutError):
                self._why_open = why
                self._failed_connections += 1
                self._next_attempt_s = time.monotonic() + HALF_OPEN_EVERY_S
            raise Transient(why) if isinstance(error, UNSENT) else Uncertain(why) from error
        self._failed_connections = 0
        return answer.status, text, _retry_after_s(answer.headers.get("Retry-After")), access

    def _connected(self) -> tuple[Access, RESTClientObject]:
        """Return the current access and a client for it. Close the old client if the access has changed."""
        access = self.credentials.current()
        with self._lock:
            if self._client[0] is not access:
                self._client[1].close()
                self._client = access, rest_client(access)
            return self._client


def load(
    kubeconfig: Path | None,
    *,
    program: str = AGENT,
    throttled: Callable[[], None] = lambda: None,
    scheduled_probes: bool = False,
) -> Api:
    """Return the API of this kubeconfig. If None, use the Pod's service account, or outside a Pod ~/.kube/config.

    `program` is the name of this HTTP client (User-Agent), which error messages also contain. `throttled` and
    `scheduled_probes`: see `Api`. Raises Rejected with a message.
    """
    read: Reader
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        read = lambda *, refused: of_pod(os.environ)  # noqa: ARG005, E731 - a Pod has only one token
    else:
        read = Kubeconfig(kubeconfig or default_file()).read
    credentials = Credentials(lambda *, refused: replace(read(refused=refused), program=program))
    return Api(credentials, throttled=throttled, scheduled_probes=scheduled_probes)


def rest_client(access: Access) -> RESTClientObject:
    """Return a client that is configured from `access` only. By default, it would also read the environment."""
    configuration = Configuration(
        host=access.server,
        retries=False,
        proxy=access.proxy,
        no_proxy="",
        proxy_headers={"Proxy-Authorization": basic(*access.proxy_login)} if access.proxy_login else None,
        connection_pool_maxsize=POOL_SIZE,
        socket_options=list(SOCKET_OPTIONS),
        verify_ssl=not access.insecure,
    )
    configuration.proxy = access.proxy
    client = RESTClientObject(configuration)
    pools = client.pool_manager
    pools.connection_pool_kw["ssl_context"] = access.tls
    pools.pool_classes_by_scheme = pools.pool_classes_by_scheme | {"https": _HttpsPool}
    return client


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    """Raises ConnectTimeoutError if the TLS handshake times out. urllib3 itself would raise ReadTimeoutError."""

    def connect(self) -> None:
        """Connect, including the TLS handshake. Raises ConnectTimeoutError."""
        try:
            super().connect()
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(self, "the TLS handshake did not end in time") from error


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def _headers(headers: dict[str, str], access: Access) -> dict[str, str] | urllib3.HTTPHeaderDict:
    if not access.impersonation:
        return headers | access.headers
    every = urllib3.HTTPHeaderDict(headers | access.headers)
    for name, value in access.impersonation:
        every.add(name, value)
    return every


def _retry_after_s(header: str | None) -> float:
    """Return the wait in a Retry-After header, at most `MAX_RETRY_AFTER_S`. Kubernetes sends seconds, never a date."""
    return min(float(header), MAX_RETRY_AFTER_S) if header and header.isdecimal() else 0.0


def as_json(text: bytes) -> Json:
    """Return the JSON object in the body of a response; empty if it is other JSON. Raises Transient."""
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise Uncertain("the API server answered something that is not JSON") from error
    return parsed if isinstance(parsed, dict) else {}


def _error(program: str, path: str, status: int, text: bytes, retry_after_s: float) -> Exception:  # noqa: PLR0911 - one status on each line
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    is_status = isinstance(answer, dict) and answer.get("kind") == "Status"
    message = answer.get("message", "") if is_status else text[:200].decode(errors="replace").strip()
    match status:
        case 404 if is_status and answer.get("details", {}).get("name"):
            return Vanished(message)
        case 404:
            kind = next((KINDS[part] for part in path.split("/") if part in KINDS), None)
            unknown = f"{kind}: install deploy/crds first" if kind else path
            return Unserved(f"the API server does not know {unknown}")
        case 409:
            return Conflicted(message)
        case 401:
            return Transient(f"the API server does not accept the credentials of {program} (401)")
        case 403:
            return Forbidden(f"{program} lacks a permission: {message}")
        case 400 | 413 | 415 | 422:
            return Rejected(message)
        case 504 if is_status and _causes(answer) & {BEHIND}:
            return Behind(message)
        case _:
            # A server that fails, or a proxy that gives up, may do so after the request was carried out.
            outcome = Uncertain if status >= 500 else Transient
            return outcome(f"the API server answered {status}: {message}", retry_after_s=retry_after_s)


def _causes(status: Json) -> set[str]:
    """Return the machine-readable causes in a Status object."""
    return {cause.get("reason", "") for cause in status.get("details", {}).get("causes", [])}


def cause(error: BaseException) -> str:
    """Return the reason inside an exception of a request as one line. The outer message is long and repeats the URL."""
    reason = getattr(error, "reason", None) or error
    # For a TLS error, the kubernetes client puts the name of the error on a line before the message.
    return (str(reason).strip().splitlines() or [type(reason).__name__])[-1]
