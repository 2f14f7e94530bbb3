"""Reads the kubeconfig of a person as kubectl does: several files, a chosen context, impersonation.

Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/. The merge is not that of
the kubernetes package: there, the last file that has a current-context wins; for kubectl, the first one does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from controller.api.json_mapping import Json
from controller.api.names import CLI
from controller.kube.access import Access
from controller.kube.client import Api
from controller.kube.credentials import Credentials
from controller.kube.kubeconfig import (
    IMPERSONATION,
    SERVICE_ACCOUNT,
    Kubeconfig,
    content_of,
    mapping,
    named,
    of_pod,
    parsed,
    text_in,
)
from controller.runtime.errors import Rejected

PATHS = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
    "context": (),
}
"""The fields that are paths. A path is relative to the folder of its file."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for on the command line. Empty: what the kubeconfig says."""

    kubeconfig: Path | None = None
    """The only file to read. None: the files in $KUBECONFIG, or ~/.kube/config."""
    context: str = ""
    user: str = ""
    """The user to impersonate."""
    groups: tuple[str, ...] = ()
    """The groups to impersonate."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The API server of a person, and the namespace of the context."""

    api: Api
    namespace: str


def connect(wish: Wish, environ: Mapping[str, str] = os.environ, *, terminal: bool = False) -> Connection:
    """Return the connection that kubectl would have; in a Pod without a kubeconfig, that of its service account.

    `terminal`: whether an exec plugin may use the terminal. Sends no request. Raises Rejected with a message.
    """
    files = [file for file in files_of(wish, environ) if file.is_file()]
    if files:
        config = UserKubeconfig(files, wish, environ, terminal=terminal)
        return Connection(Api(Credentials(config.read)), config.namespace())
    if "KUBERNETES_SERVICE_HOST" in environ and not wish.context:
        return Connection(Api(Credentials(lambda *, refused: _in_pod(wish, environ))), _namespace_of_pod())  # noqa: ARG005 - a Pod has only one token
    looked = ", ".join(map(str, files_of(wish, environ)))
    raise Rejected(f"there is no kubeconfig: looked for {looked}")


def contexts(wish: Wish, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the contexts. Raises Rejected with a message."""
    return [entry["name"] for entry in merged(file for file in files_of(wish, environ) if file.is_file())["contexts"]]


def files_of(wish: Wish, environ: Mapping[str, str]) -> list[Path]:
    """Return the files that kubectl would read, in the order of precedence. Not all of them need to exist."""
    if wish.kubeconfig:
        return [wish.kubeconfig]
    listed = [Path(one) for one in environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    return listed or [Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config"]


class UserKubeconfig:
    """The kubeconfig of a person. Can be read repeatedly. Not thread-safe."""

    def __init__(self, files: list[Path], wish: Wish, environ: Mapping[str, str], *, terminal: bool) -> None:
        self._files, self._wish = files, wish
        self._kubeconfig = Kubeconfig(files[0], environ, terminal=terminal)

    def read(self, *, refused: bool) -> Access:
        """Read the current access. `refused`: whether the API server rejected the previous access with 401.

        Raises Rejected with a message.
        """
        try:
            config = self._config()
            name = text_in(named(config, "context", text_in(config, "current-context")), "user")
            user = named(config, "user", name) if name else {}
            impersonation = impersonating(user, self._wish)
            for field in IMPERSONATION:
                user.pop(field, None)  # Kubeconfig refuses them, because an agent must not impersonate
            access = self._kubeconfig.access(config, refused=refused)
        except Rejected as error:
            raise self._unusable(error) from error
        return replace(access, impersonation=impersonation, program=CLI)

    def namespace(self) -> str:
        """Return the namespace of the context. Raises Rejected with a message."""
        try:
            config = self._config()
            context = named(config, "context", text_in(config, "current-context"))
            return text_in(context, "namespace") or "default"
        except Rejected as error:
            raise self._unusable(error) from error

    def _config(self) -> Json:
        config = merged(self._files)
        return config | {"current-context": self._wish.context} if self._wish.context else config

    def _unusable(self, error: Rejected) -> Rejected:
        return Rejected(f"the kubeconfig {', '.join(map(str, self._files))} is not usable: {error}")


def merged(files: Iterable[Path]) -> Json:
    """Merge kubeconfigs: the first file that has a name or a current-context wins, as a whole. Raises Rejected."""
    found: dict[str, dict[str, Json]] = {kind: {} for kind in PATHS}
    current = ""
    for file in files:
        content = content_of(file, str(file))
        if not content.strip():
            continue
        config = parsed(content)
        current = current or text_in(config, "current-context")
        for kind, entries in found.items():
            listed = config.get(f"{kind}s")
            for entry in listed if isinstance(listed, list) else ():
                name = text_in(mapping(entry, f"an entry of its {kind}s"), "name")
                section = mapping(entry.get(kind) or {}, f"its {kind} {name}")
                entries.setdefault(name, _with_absolute_paths(section, kind, file.absolute().parent))
    lists = {
        f"{kind}s": [{"name": name, kind: section} for name, section in entries.items()]
        for kind, entries in found.items()
    }
    return {"current-context": current} | lists


def impersonating(user: Json, wish: Wish) -> tuple[tuple[str, str], ...]:
    """Return the headers that impersonate. The wish takes precedence over this user of a kubeconfig. Raises Rejected.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
    """
    name = wish.user or text_in(user, "as")
    groups = wish.groups or _texts(user.get("as-groups"), "its as-groups")
    uid = text_in(user, "as-uid")
    extra = mapping(user.get("as-user-extra") or {}, "its as-user-extra")
    if not name:
        if groups or uid or extra:
            raise Rejected("it asks for impersonation without a user: add --as")
        return ()
    headers = [("Impersonate-User", name), *(("Impersonate-Group", group) for group in groups)]
    if uid:
        headers.append(("Impersonate-Uid", uid))
    for key, values in extra.items():
        header = f"Impersonate-Extra-{quote(str(key), safe='')}"
        headers += [(header, value) for value in _texts(values, f"its as-user-extra {key}")]
    return tuple((header, _header_value(value)) for header, value in headers)


def _texts(value: object, what: str) -> tuple[str, ...]:
    """Return the strings of a list, which may be absent. Raises Rejected for anything else."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Rejected(f"{what} must be a list of strings, and is {value!r}")
    return tuple(value)


def _header_value(text: str) -> str:
    """Return the text as the HTTP client must get it, which sends each character as one byte. Raises Rejected.

    kubectl sends UTF-8.
    """
    if not text.isprintable():
        raise Rejected(f"it cannot impersonate {text!r}, because an HTTP header cannot have these characters")
    return text.encode().decode("latin-1")


def _with_absolute_paths(section: Json, kind: str, folder: Path) -> Json:
    absolute = {field: str(folder / path) for field in PATHS[kind] if (path := text_in(section, field))}
    plugin = section.get("exec")
    if isinstance(plugin, dict) and "/" in text_in(plugin, "command"):
        absolute["exec"] = plugin | {"command": str(folder / plugin["command"])}  # type: ignore[assignment]
    return section | absolute


def _in_pod(wish: Wish, environ: Mapping[str, str]) -> Access:
    return replace(of_pod(environ), impersonation=impersonating({}, wish), program=CLI)


def _namespace_of_pod(folder: Path = SERVICE_ACCOUNT) -> str:
    try:
        return (folder / "namespace").read_text().strip() or "default"
    except (OSError, ValueError):
        return "default"
