"""How the API server is asked: one client for all threads, and its errors in our three words."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTClientObject

from controller.kube.access import SOCKET_OPTIONS, Access, basic
from controller.kube.credentials import Credentials
from controller.kube.kubeconfig import Kubeconfig, of_pod
from controller.runtime.errors import CircuitOpen, Conflicted, Rejected, Transient, Vanished

TIMEOUT_S = (3.0, 10.0)
"""To connect, and to read; the client has none of its own."""
CIRCUIT_OPENS_AFTER = 5
"""After so many attempts in a row to connect in vain the API server is taken to be away."""
LONGEST_RETRY_AFTER_S = 30.0
POOL_SIZE = 32

Json = dict[str, Any]


class Api:
    """The API server. Any thread may use it.

    While it is away nobody is let through to it but `knock`: else every VM of the node would keep asking. One that is
    slow is not away: only a connection that cannot be made counts, and an answer that does not come does not.
    """

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._lock = threading.Lock()
        access = credentials.current()
        self._client = access, _rest_client(access)
        self._unanswered, self._why_open = 0, ""
        self._troubled = self._back = False

    @property
    def circuit_open(self) -> bool:
        """The last attempts to connect to it were in vain."""
        return self._unanswered >= CIRCUIT_OPENS_AFTER

    def probe(self) -> bool:
        """Ask whether it is there, silent or not."""
        try:
            self._ask("GET", "/version", {}, None)
        except Transient:
            return False
        return True

    def heard(self, *, good: bool) -> None:
        """A request has had a good answer, or has failed in a way that says that something is wrong with all of them.

        The watch tells of its own.
        """
        if not good:
            self._troubled = True
        elif self._troubled:
            self._troubled, self._back = False, True

    def take_recovery(self) -> bool:
        """Whether it has given a good answer after trouble, and nobody was told that yet."""
        back, self._back = self._back, False
        return back

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Json:
        """One request and its answer. Raises Conflicted, Vanished, Rejected, Transient, and CircuitOpen."""
        if self.circuit_open:
            raise CircuitOpen(self._why_open)
        headers = {"Content-Type": content_type} if body is not None else {}
        where = path + (f"?{urlencode(query)}" if query else "")
        status, text, retry_after_s, access = self._ask(method, where, headers, body)
        if status == 401 and self.credentials.renew(access) is not access:
            status, text, retry_after_s, _ = self._ask(method, where, headers, body)
        if status < 400:
            self.heard(good=True)
            return _json(text)
        if status in {401, 429} or status >= 500:
            self.heard(good=False)
        raise _error(status, text, retry_after_s)

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: Json | None
    ) -> tuple[int, bytes, float, Access]:
        """The status and the body of the answer, the wait it asks for, and as whom. Raises Transient without one."""
        access, client = self._connected()
        try:
            answer = client.request(
                method,
                f"{access.server}{path}",
                headers=headers | access.headers | {"Accept": "application/json"},
                body=body,
                _request_timeout=TIMEOUT_S,
            )
            text = answer.read()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            self.heard(good=False)
            why = f"the API server does not answer: {_cause(error)}"
            if not isinstance(error, urllib3.exceptions.ReadTimeoutError):
                self._why_open = why
                self._unanswered += 1
            raise Transient(why) from error
        self._unanswered = 0
        return answer.status, text, _retry_after_s(answer.headers.get("Retry-After")), access

    def _connected(self) -> tuple[Access, RESTClientObject]:
        """How it is reached now, and a client for that; the connections of another way are closed."""
        access = self.credentials.current()
        with self._lock:
            if self._client[0] is not access:
                self._client[1].close()
                self._client = access, _rest_client(access)
            return self._client


def load(kubeconfig: Path | None) -> Api:
    """The API server of this kubeconfig, of the Pod, or of ~/.kube/config. Raises Rejected in one sentence."""
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        return Api(Credentials(lambda *, refused: of_pod(os.environ)))  # noqa: ARG005 - there is but one to give
    return Api(Credentials(Kubeconfig(kubeconfig or Path.home() / ".kube" / "config").read))


def _rest_client(access: Access) -> RESTClientObject:
    """The kubernetes client, told nothing but what `Access` says: by itself it would read the environment too."""
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
    """Tells a handshake that does not end from an answer that does not come: to urllib3 both are read timeouts."""

    def connect(self) -> None:
        """Connect, TLS included."""
        try:
            super().connect()
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(self, "the TLS handshake did not end in time") from error


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def _retry_after_s(said: str | None) -> float:
    """The wait that an answer asks for, as far as it is heeded; Kubernetes gives it in seconds."""
    return min(float(said), LONGEST_RETRY_AFTER_S) if said and said.isdecimal() else 0.0


def _json(text: bytes) -> Json:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise Transient("the API server answered something that is not JSON") from error
    return parsed if isinstance(parsed, dict) else {}


def _error(status: int, text: bytes, retry_after_s: float) -> Exception:  # noqa: PLR0911 - one answer a line
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    is_status = isinstance(said, dict) and said.get("kind") == "Status"
    message = said.get("message", "") if is_status else text[:200].decode(errors="replace").strip()
    match status:
        case 404 if is_status and said.get("details", {}).get("name"):
            return Vanished(message)
        case 404:
            return Transient("the API server does not know VirtualMachine: install deploy/crds first")
        case 409:
            return Conflicted(message)
        case 401:
            return Transient("the API server does not accept the agent's credentials (401)")
        case 403:
            return Transient(f"the agent lacks a right: {message}")
        case 400 | 413 | 415 | 422:
            return Rejected(message)
        case _:
            return Transient(f"the API server answered {status}: {message}", retry_after_s=retry_after_s)


def _cause(error: BaseException) -> str:
    """The innermost reason in one line: what wraps it repeats the URL at length."""
    reason = getattr(error, "reason", None) or error
    # The client puts the name of an error of TLS in a line before what it says.
    return (str(reason).strip().splitlines() or [type(reason).__name__])[-1]
