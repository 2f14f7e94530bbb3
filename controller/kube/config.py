"""How the API server is reached: one client for all threads, and its errors in our three words."""

from __future__ import annotations

import json
import os
import tempfile
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
from controller.errors import Conflicted, Rejected, Transient, Vanished

TIMEOUT_S = (3.0, 10.0)
"""To connect, and to read; the client has none of its own."""
TOKEN_LIFE = timedelta(minutes=1)
"""For how long a token that the kubelet rotates is taken for good; the client reads it anew as often."""

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
    """The API server. Any thread may use it."""

    def __init__(self, configuration: Configuration, *, rotates: bool = False) -> None:
        configuration.retries = False
        configuration.connection_pool_maxsize = 32
        self._configuration, self._rotates = configuration, rotates
        self._client = ApiClient(configuration)

    def endpoint(self) -> Endpoint:
        """Where it is and how to log in, as of now."""
        c = self._configuration
        authorization = c.get_api_key_with_prefix("authorization") or c.get_api_key_with_prefix("BearerToken")
        return Endpoint(
            server=c.host,
            ca_path=c.ssl_ca_cert,
            insecure=not c.verify_ssl,
            token=authorization.removeprefix("Bearer ") if authorization else None,
            certificate_path=c.cert_file,
            private_key_path=c.key_file,
            expiration=datetime.now(UTC) + TOKEN_LIFE if self._rotates else None,
        )

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Json:
        """One request and its answer. Raises Conflicted, Vanished, Rejected, Transient."""
        headers = {"Accept": "application/json", "User-Agent": f"virtsync-agent/{__version__}"}
        if body is not None:
            headers["Content-Type"] = content_type
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self._client.rest_client.request(
                method,
                url,
                headers=headers,
                body=body,
                _request_timeout=TIMEOUT_S,
            )
            text = answer.read()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            raise Transient(f"the API server does not answer: {_cause(error)}") from error
        if answer.status >= 400:
            raise _error(answer.status, text)
        return _json(text)


def load(kubeconfig: Path | None) -> Api:
    """The API server of this kubeconfig, of the Pod, or of ~/.kube/config. Raises Rejected in one sentence."""
    configuration = Configuration()
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        try:
            incluster_config.load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise Rejected(f"the Pod's service account cannot be used: {error}") from error
        return Api(configuration, rotates=True)
    file = kubeconfig or Path.home() / ".kube" / "config"
    try:
        file.read_bytes()
    except OSError as error:
        raise Rejected(f"the kubeconfig {file} cannot be read: {error.strerror}") from error
    try:
        kube_config.load_kube_config(
            str(file), client_configuration=configuration, persist_config=False, temp_file_path=tempfile.gettempdir()
        )
    except Exception as error:  # the loader lets errors of YAML, base64 and types through as they come
        raise Rejected(f"the kubeconfig {file} is not usable: {_first_line(error)}") from error
    return Api(configuration)


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
