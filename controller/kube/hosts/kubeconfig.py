"""Writes the kubeconfig of an enrolled host, and replaces the token in it. The file is written atomically."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from controller.api.json_mapping import Json
from controller.api.names import HOST_ACCOUNT_PREFIX
from controller.kube.access import Access
from controller.kube.hosts.token import read_token
from controller.kube.kubeconfig import PROXY_FIELD, content_of, named, parsed, server_url, text_in
from controller.kube.manifests import document
from controller.runtime.errors import Rejected

MODE = 0o600


def of_host(cluster: Json, host: str, token: str) -> str:
    """Return a kubeconfig of a host, as YAML, with the cluster that `cluster_of` has returned."""
    name = HOST_ACCOUNT_PREFIX + host
    return document(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": "cluster", "user": name}}],
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
        },
        above=[
            f"The identity of {host}, written by `virtsync enroll {host}`. Keep it secret: whoever has it is the agent",
            "of this host. The agent replaces the token before it expires.",
        ],
    )


def cluster_of(access: Access, server: str = "") -> Json:
    """Return the cluster of a host's kubeconfig: the API server of this access. `server` replaces its URL.

    A proxy is only that of the kubeconfig, for the URL of the kubeconfig: the host need not reach what the environment
    of this machine names. Raises Rejected if the host could not use the access, or the access is not safe.
    """
    if access.insecure:
        raise Rejected("your kubeconfig has insecure-skip-tls-verify: use one that checks the API server's certificate")
    url = server_url(server or access.server, "the URL of the API server")
    if urlsplit(url).scheme != "https":
        raise Rejected(f"{url} is not an https URL: the host would send its token to it in clear text")
    cluster: Json = {"server": url}
    if access.ca:
        cluster["certificate-authority-data"] = base64.b64encode(access.ca).decode()
    if access.server_name:
        cluster["tls-server-name"] = access.server_name
    if access.proxy and access.proxy_is_configured and url == access.server:
        if access.proxy_login:
            raise Rejected("your kubeconfig has a proxy with a password, which no host must get: use one without it")
        cluster[PROXY_FIELD] = access.proxy
    return cluster


def is_of_host(file: Path, host: str) -> bool:
    """Whether this file is a kubeconfig of this host, which an earlier run has written."""
    try:
        user = _user(parsed(_content(file)))
    except Rejected:
        return False
    found = read_token(text_in(user, "token"))
    return found is not None and found.host == host


def replace_token(file: Path, old: str, new: str) -> None:
    """Replace the token in this kubeconfig, or in the token file that the kubeconfig names, on the disk.

    If the token there is another one than `old`, somebody has replaced it: nothing is written. Raises Rejected.
    """
    content = _content(file)
    user = _user(parsed(content))
    if named_file := text_in(user, "tokenFile"):
        file = file.parent / named_file
        content = _content(file)
    if old.encode() in content:
        write(file, content.replace(old.encode(), new.encode()))


def write(file: Path, content: bytes) -> None:
    """Replace the file atomically; only its owner can read it. A link stays, and its target is replaced.

    Raises Rejected with a message.
    """
    file = file.resolve()
    try:
        descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "wb") as opened:
                os.fchmod(descriptor, MODE)
                opened.write(content)
                opened.flush()
                os.fsync(descriptor)
            Path(partial).replace(file)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Rejected(f"{file} cannot be written: {error.strerror}") from error


def _content(file: Path) -> bytes:
    return content_of(file, str(file))


def _user(config: Json) -> Json:
    context = named(config, "context", text_in(config, "current-context"))
    name = text_in(context, "user")
    return named(config, "user", name) if name else {}
