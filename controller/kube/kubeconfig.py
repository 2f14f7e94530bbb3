"""Reads a kubeconfig, a Pod's service account and the environment.

Each field of a kubeconfig is applied, or rejected with a message that contains the name of the field.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
import yaml

from controller.api.json_mapping import Json
from controller.kube.access import Access, basic
from controller.kube.proxies import proxy_of
from controller.runtime.errors import Rejected

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_TIMEOUT_S = 10.0
"""The timeout of an exec plugin. It is short, because the thread that renews the Lease might wait for the plugin."""
EXEC_MARGIN = timedelta(minutes=1)
"""An exec plugin is run again if its last credential expires within this time."""
EXEC_API = "client.authentication.k8s.io/"
PROXY_FIELD = "proxy-url"

CLUSTER = {
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
    "tls-server-name",
    PROXY_FIELD,
    # This field has no effect, because neither HTTP client requests compression.
    "disable-compression",
    "extensions",
}
USER = {
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
    "tokenFile",
    "username",
    "password",
    "exec",
    "extensions",
}
EXEC = {"apiVersion", "command", "args", "env", "installHint", "provideClusterInfo", "interactiveMode"}
IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class _Credential:
    """A credential that an exec plugin returned."""

    token: str | None
    certificate: bytes | None
    key: bytes | None
    expires: datetime | None

    def fresh(self) -> bool:
        return self.expires is None or datetime.now(UTC) < self.expires - EXEC_MARGIN


class Kubeconfig:
    """A kubeconfig that can be read repeatedly. Not thread-safe."""

    def __init__(self, file: Path, environ: Mapping[str, str] = os.environ, *, terminal: bool = False) -> None:
        """`terminal`: whether a person is there, whom an exec plugin may ask, for as long as the person needs."""
        self._file, self._environ, self._terminal = file, environ, terminal
        self._last: tuple[Json, _Credential] | None = None
        """The exec section of the plugin that was run last, and the credential that the plugin returned."""

    def read(self, *, refused: bool) -> Access:
        """Read the current access. `refused`: whether the API server rejected the previous access with 401.

        Raises Rejected with a message.
        """
        content = content_of(self._file, f"the kubeconfig {self._file}")
        try:
            return self.access(parsed(content), refused=refused)
        except Rejected as error:
            raise Rejected(f"the kubeconfig {self._file} is not usable: {error}") from error

    def access(self, config: Json, *, refused: bool) -> Access:
        """Return the access that this content of a kubeconfig describes; `refused` as in `read`. Raises Rejected."""
        context = named(config, "context", text_in(config, "current-context"))
        cluster = named(config, "cluster", text_in(context, "cluster"))
        name = text_in(context, "user")
        user = named(config, "user", name) if name else {}
        _refuse(cluster, "cluster", CLUSTER)
        _refuse_user(user)
        access = self._user(user, self._cluster(cluster))
        if plugin := user.get("exec"):
            access = self._with_plugin(access, mapping(plugin, "its exec"), cluster, refused=refused)
        access.tls  # noqa: B018 - raises Rejected if a certificate or key cannot be used
        return access

    def _cluster(self, cluster: Json) -> Access:
        server = server_url(text_in(cluster, "server"), "its server")
        ca, insecure = self._content(cluster, "certificate-authority"), _flag(cluster, "insecure-skip-tls-verify")
        _flag(cluster, "disable-compression")
        if ca and insecure:
            raise Rejected("it has both certificate-authority and insecure-skip-tls-verify")
        access = Access(
            server=server, ca=ca, insecure=insecure, server_name=text_in(cluster, "tls-server-name") or None
        )
        proxy = text_in(cluster, PROXY_FIELD)
        return _through_proxy(access, (PROXY_FIELD, proxy) if proxy else proxy_of(server, self._environ))

    def _user(self, user: Json, access: Access) -> Access:
        certificate, key = self._content(user, "client-certificate"), self._content(user, "client-key")
        if bool(certificate) != bool(key):
            raise Rejected("it has only one of client-certificate and client-key")
        username, password = text_in(user, "username"), text_in(user, "password")
        if bool(username) != bool(password):
            raise Rejected("it has only one of username and password")
        token = self._token(user)
        if sum(map(bool, (token, username, user.get("exec")))) > 1:
            raise Rejected("it has more than one of token, username and exec")
        authorization = f"Bearer {token}" if token else basic(username, password) if username else None
        return replace(access, certificate=certificate, key=key, authorization=authorization)

    def _token(self, user: Json) -> str:
        """Return the bearer token, or an empty string. As in client-go, tokenFile takes precedence over token."""
        file = text_in(user, "tokenFile")
        token = self._file_content(file).decode(errors="replace").strip() if file else text_in(user, "token")
        if not token.isprintable() or not token.isascii():
            raise Rejected("its token has characters that an HTTP header cannot have")
        return token

    def _content(self, section: Json, field: str) -> bytes | None:
        """Return the content of a field that is set as a file or as data. As in kubectl, data takes precedence."""
        if data := text_in(section, f"{field}-data"):
            try:
                return base64.b64decode(data, validate=False)
            except ValueError as error:  # binascii.Error is one, and characters that are not ASCII raise another
                raise Rejected(f"its {field}-data is not base64") from error
        path = text_in(section, field)
        return self._file_content(path) if path else None

    def _file_content(self, path: str) -> bytes:
        return content_of(self._file.parent / path, f"its file {path}")

    def _with_plugin(self, access: Access, plugin: Json, cluster: Json, *, refused: bool) -> Access:
        """Return `access` with the plugin's credential. Run the plugin if the last credential is not usable."""
        if refused or not self._last or self._last[0] != plugin or not self._last[1].fresh():
            self._last = plugin, _run(plugin, cluster, self._file.parent, self._environ, terminal=self._terminal)
        credential = self._last[1]
        access = replace(access, authorization=f"Bearer {credential.token}" if credential.token else None)
        if not credential.certificate:
            return access
        return replace(access, certificate=credential.certificate, key=credential.key)


def content_of(file: Path, what: str) -> bytes:
    """Return the content of a file. `what` names it in the message. Raises Rejected."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise Rejected(f"{what} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a path that no file can have, as with a NUL
        raise Rejected(f"{what} cannot be read: {error}") from error


def default_file() -> Path:
    """Return the kubeconfig of a process that is given none, and does not run in a Pod."""
    return Path.home() / ".kube" / "config"


def of_pod(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """Return the access of this Pod's service account to the API server of its cluster. Raises Rejected."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        token = (folder / "token").read_text().strip()
        ca = (folder / "ca.crt").read_bytes()
        server = server_url(f"https://{f'[{host}]' if ':' in host else host}:{port}", "its server")
        access = Access(server=server, ca=ca, authorization=f"Bearer {token}")
        access = _through_proxy(access, proxy_of(server, environ))
        access.tls  # noqa: B018 - raises Rejected if the CA certificate cannot be used
    except (OSError, ValueError, Rejected) as error:  # ValueError: a token that is not UTF-8
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        raise Rejected(f"the Pod's service account cannot be used: {why}") from error
    return access


def _through_proxy(access: Access, proxy: tuple[str, str] | None) -> Access:
    """Return `access` with this proxy set, or unchanged if `proxy` is None. Raises Rejected.

    `proxy`: (name of the field or variable, URL).
    """
    if not proxy:
        return access
    field, text = proxy
    wrong = Rejected(f"its {field} is not a proxy URL like http://10.0.0.1:3128, the only kind that is supported")
    try:
        url, port = urlsplit(text), urlsplit(text).port
    except ValueError:
        raise wrong from None
    if url.scheme != "http" or not url.hostname:
        # aiohttp does not support SOCKS, and would verify an https proxy with the TLS settings of the API server.
        raise wrong
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    login = (unquote(url.username), unquote(url.password or "")) if url.username else None
    found = f"http://{host}:{port or 80}"
    try:
        urllib3.util.parse_url(found)
    except urllib3.exceptions.LocationParseError:
        raise wrong from None
    return replace(access, proxy=found, proxy_login=login, proxy_is_configured=field == PROXY_FIELD)


def _run(
    plugin: Json, cluster: Json, folder: Path, environ: Mapping[str, str], *, terminal: bool = False
) -> _Credential:
    """Run an exec plugin and return its credential. Raises Rejected.

    `terminal`: the plugin may use the terminal, unless its interactiveMode is Never, and has no time limit.
    """
    _refuse(plugin, "exec", EXEC)
    command, api = text_in(plugin, "command"), text_in(plugin, "apiVersion")
    if not command or not api.startswith(EXEC_API):
        raise Rejected(f"its exec needs a command, and an apiVersion that begins with {EXEC_API}")
    interactive = terminal and plugin.get("interactiveMode") != "Never"
    if plugin.get("interactiveMode") == "Always" and not interactive:
        raise Rejected("its exec has interactiveMode Always, but there is no terminal")
    if "/" in command:
        command = str(folder / command)
    spec: Json = {"interactive": interactive}
    if _flag(plugin, "provideClusterInfo"):
        spec["cluster"] = _cluster_info(cluster)
    info = json.dumps({"apiVersion": api, "kind": "ExecCredential", "spec": spec})
    arguments = plugin.get("args") or []
    if not isinstance(arguments, list):
        raise Rejected("its exec.args is not a list")
    try:
        extra = {str(one["name"]): str(one["value"]) for one in plugin.get("env") or ()}
    except (KeyError, TypeError) as error:
        raise Rejected("its exec.env is not a list of names and values") from error
    try:
        ended = subprocess.run(  # noqa: S603 - the kubeconfig is trusted, and names the command
            [command, *map(str, arguments)],
            env={**environ, **extra, "KUBERNETES_EXEC_INFO": info},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if terminal else subprocess.PIPE,
            timeout=None if terminal else EXEC_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise Rejected(
            f"its exec {command} failed: {_first_line((error.stderr or b'').decode(errors='replace'))}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Rejected(f"its exec {command} did not finish within {EXEC_TIMEOUT_S:g} s") from error
    except OSError as error:
        hint = f" ({_first_line(plugin['installHint'])})" if plugin.get("installHint") else ""
        raise Rejected(f"its exec {command} cannot be run: {error.strerror}{hint}") from error
    except ValueError as error:  # a word that no command line can have, as with a NUL
        raise Rejected(f"its exec {command} cannot be run: {error}") from error
    try:
        return _credential(json.loads(ended.stdout), api)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(f"its exec {command} did not return an ExecCredential of {api}") from error


def _credential(answer: Json, api: str) -> _Credential:
    status = answer["status"]
    expires, certificate = status.get("expirationTimestamp"), status.get("clientCertificateData")
    if answer["apiVersion"] != api or not (status.get("token") or certificate):
        raise ValueError
    return _Credential(
        token=status.get("token"),
        certificate=certificate.encode() if certificate else None,
        key=status["clientKeyData"].encode() if certificate else None,
        expires=datetime.fromisoformat(expires).astimezone(UTC) if expires else None,
    )


def _cluster_info(cluster: Json) -> Json:
    """Return the cluster in the format of `spec.cluster` of an ExecCredential."""
    info = {one: cluster[one] for one in CLUSTER - {"certificate-authority", "extensions"} if cluster.get(one)}
    try:
        extensions = cluster.get("extensions") or ()
        config = next((one["extension"] for one in extensions if one["name"] == f"{EXEC_API}exec"), None)
    except (KeyError, TypeError) as error:
        raise Rejected("its cluster.extensions is not a list of names and extensions") from error
    return info | ({"config": config} if config else {})


def server_url(text: str, what: str) -> str:
    """Return the URL of an API server after checking it. `what` names it in the message. Raises Rejected."""
    wrong = Rejected(f"{what} {text!r} is not a URL like https://10.0.0.1:6443")
    try:
        url = urllib3.util.parse_url(text)
    except urllib3.exceptions.LocationParseError as error:
        raise wrong from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise wrong
    return text.rstrip("/")


def _refuse_user(user: Json) -> None:
    for field in IMPERSONATION:
        if user.get(field):
            raise Rejected(f"its {field} asks for impersonation, which virtsync does not support")
    if user.get("auth-provider"):
        raise Rejected("its auth-provider is a mechanism that Kubernetes has removed: use exec")
    _refuse(user, "user", USER | {*IMPERSONATION, "auth-provider"})


def _refuse(section: Json, what: str, known: set[str]) -> None:
    """Raise Rejected if the section has an unknown field, which might change the user or the server."""
    unknown = sorted(str(field) for field in section.keys() - known)
    if unknown:
        raise Rejected(f"its {what} has {unknown[0]}, which virtsync does not support")


def parsed(content: bytes) -> Json:
    """Parse the content of a kubeconfig. Raises Rejected."""
    try:
        config = yaml.load(content, Loader)  # noqa: S506 - a safe loader, in C if available
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a time such as 2026-99-99
        raise Rejected(f"it is not YAML: {_first_line(error)}") from error
    return mapping(config, "it")


def named(config: Json, kind: str, name: str) -> Json:
    """Return the context, cluster or user with this name. Raises Rejected."""
    listed = config.get(f"{kind}s")
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("name") == name:
            return mapping(one.get(kind) or {}, f"its {kind} {name}")
    raise Rejected(f"it has no {kind} {name!r}" if name else f"it does not name a {kind} to use")


def mapping(value: object, what: str) -> Json:
    """Return the value if it is a mapping. `what` names it in the message. Raises Rejected."""
    if not isinstance(value, dict):
        raise Rejected(f"{what} is not a mapping")
    return value


def text_in(section: Json, field: str) -> str:
    """Return the text of a field; empty if the field is absent. Raises Rejected."""
    value = section.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(f"its {field} is not a string")
    return value


def _flag(section: Json, field: str) -> bool:
    value = section.get(field)
    if value is not None and not isinstance(value, bool):
        raise Rejected(f"its {field} is not true or false")
    return bool(value)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["it wrote no message"])[0][:300]
