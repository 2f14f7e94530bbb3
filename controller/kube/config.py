"""How the API server is reached: one client for all threads, and its errors in our three words."""

from __future__ import annotations

import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, incluster_config, kube_config

from controller import __version__
from controller.errors import Conflicted, Rejected, Transient, Unasked, Vanished

TIMEOUT_S = (3.0, 10.0)
"""To connect, and to read; the client has none of its own."""
TOKEN_LIFE = timedelta(minutes=1)
"""For how long a token that the kubelet rotates is taken for good; the client reads it anew as often."""
HEADER_LIFE_S = 1.0
"""For how long the client is not asked again how to log in."""
NO_HEADER: tuple[float, dict[str, str]] = (float("-inf"), {})
SILENT_AFTER = 5
"""After so many requests in a row without an answer the API server is taken to be away."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What another client needs to reach the same API server as the same user."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    expiration: datetime | None


class Api:
    """The API server. Any thread may use it.

    While it is away nobody is let through to it but `knock`: else every VM of the node would keep asking.
    """

    def __init__(self, configuration: Configuration, *, anew: Callable[[], Configuration] | None = None) -> None:
        """`anew` reads the configuration again, for a token that was exchanged; None: the client does so itself."""
        configuration.retries = False
        configuration.connection_pool_maxsize = 32
        self._configuration, self._anew = configuration, anew
        self._client = ApiClient(configuration)
        self._header = NO_HEADER
        self._unanswered, self._why_silent = 0, ""

    def endpoint(self) -> Endpoint:
        """Where it is and how to log in, as of now."""
        self._reread_token()
        c = self._configuration
        authorization = c.get_api_key_with_prefix("authorization") or c.get_api_key_with_prefix("BearerToken")
        return Endpoint(
            server=c.host,
            ca_path=c.ssl_ca_cert,
            insecure=not c.verify_ssl,
            token=authorization.split()[-1] if authorization else None,  # after "Bearer", or "bearer" in a Pod
            certificate_path=c.cert_file,
            private_key_path=c.key_file,
            expiration=datetime.now(UTC) + TOKEN_LIFE if self._anew is None else None,
        )

    def _reread_token(self) -> None:
        """Take the token that the kubeconfig has by now; while that is being written, the one at hand."""
        if self._anew is None:
            return
        with suppress(Rejected):
            now = self._anew()
            # The hook puts the token of its own configuration into every request.
            self._configuration.api_key, self._configuration.refresh_api_key_hook = (
                now.api_key,
                now.refresh_api_key_hook,
            )
            self._header = NO_HEADER

    def _authorization(self) -> dict[str, str]:
        """The header that logs in. The client's hook for a kubeconfig reads all of the environment each time."""
        asked_s, header = self._header
        if time.monotonic() - asked_s > HEADER_LIFE_S:
            header = {}
            self._client.update_params_for_auth(header, [], ["BearerToken"], "", "", None)
            if "authorization" in header:  # the line of a token file may have its end
                header["authorization"] = header["authorization"].strip()
            self._header = time.monotonic(), header
        return header

    @property
    def silent(self) -> bool:
        """It has left the last requests without an answer."""
        return self._unanswered >= SILENT_AFTER

    def knock(self) -> bool:
        """Ask whether it is there, silent or not."""
        try:
            self._ask("GET", "/version", {}, None)
        except Transient:
            return False
        return True

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Json:
        """One request and its answer. Raises Conflicted, Vanished, Rejected, Transient; Unasked while it is silent."""
        if self.silent:
            raise Unasked(self._why_silent)
        headers = {"Content-Type": content_type} if body is not None else {}
        status, text = self._ask(method, path + (f"?{urlencode(query)}" if query else ""), headers, body)
        if status == 401:
            self._reread_token()
        if status >= 400:
            raise _error(status, text)
        return _json(text)

    def _ask(self, method: str, path: str, headers: dict[str, str], body: Json | None) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises Transient when there is none."""
        headers |= {"Accept": "application/json", "User-Agent": f"virtsync-agent/{__version__}"}
        headers |= self._authorization()
        try:
            answer = self._client.rest_client.request(
                method,
                f"{self._configuration.host}{path}",
                headers=headers,
                body=body,
                _request_timeout=TIMEOUT_S,
            )
            text = answer.read()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            self._unanswered += 1
            self._why_silent = f"the API server does not answer: {_cause(error)}"
            raise Transient(self._why_silent) from error
        self._unanswered = 0
        return answer.status, text


def load(kubeconfig: Path | None) -> Api:
    """The API server of this kubeconfig, of the Pod, or of ~/.kube/config. Raises Rejected in one sentence."""
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        configuration = Configuration()
        try:
            incluster_config.load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise Rejected(f"the Pod's service account cannot be used: {error}") from error
        return Api(configuration)
    file = kubeconfig or Path.home() / ".kube" / "config"
    return Api(_read(file), anew=lambda: _read(file))


def _read(file: Path) -> Configuration:
    """What a kubeconfig says. Raises Rejected in one sentence."""
    configuration = Configuration()
    try:
        file.read_bytes()
    except OSError as error:
        raise Rejected(f"the kubeconfig {file} cannot be read: {error.strerror}") from error
    try:
        kube_config.load_kube_config(
            str(file), client_configuration=configuration, persist_config=False, temp_file_path=tempfile.gettempdir()
        )
        _check(configuration)
    except Exception as error:  # the loader lets errors of YAML, base64 and types through as they come
        raise Rejected(f"the kubeconfig {file} is not usable: {_first_line(error)}") from error
    return configuration


def _check(configuration: Configuration) -> None:
    """Raise what would else be raised by every request."""
    url = urllib3.util.parse_url(configuration.host)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigException(f"its server {configuration.host!r} is not a URL like https://10.0.0.1:6443")
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    except ssl.SSLError as error:
        raise ConfigException("its certificate-authority is not a certificate") from error
    if configuration.cert_file:
        try:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        except ssl.SSLError as error:
            raise ConfigException("its client-certificate and client-key are not a certificate and its key") from error


def _json(text: bytes) -> Json:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise Transient("the API server answered something that is not JSON") from error
    return parsed if isinstance(parsed, dict) else {}


def _error(status: int, text: bytes) -> Exception:  # noqa: PLR0911 - one answer a line
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
            return Transient(f"the API server answered {status}: {message}")


def _cause(error: BaseException) -> str:
    """The innermost reason in one line: what wraps it repeats the URL at length."""
    reason = getattr(error, "reason", None)
    return _first_line(reason or error)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
