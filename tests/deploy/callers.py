"""Who asks an API server for something with a token of their own, and what it answers: no client in between."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.controlplane import ControlPlane

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
HANG_LIMIT_S = 60
IDLE_S = 30.0
"""kube-apiserver closes a connection that has been idle for 90 s (IdleTimeout of k8s.io/apiserver)."""
AGENTS = "virtsync-system"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Request:
    """One request, as it goes over the wire; a PATCH is a merge patch."""

    method: str
    path: str
    body: Json | None = None


@dataclass(frozen=True)
class Answer:
    """What the API server says to it."""

    code: int
    body: Json
    headers: HTTPMessage = field(default_factory=HTTPMessage)

    @property
    def granted(self) -> bool:
        return self.code < HTTPStatus.BAD_REQUEST

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


class Caller:
    """Somebody with a token, or with somebody else's name if the token's owner may take it on. Close it."""

    def __init__(self, controlplane: ControlPlane, token: str, headers: Mapping[str, str] | None = None) -> None:
        where = urlsplit(controlplane.url)
        context = ssl.create_default_context(cafile=controlplane.ca)
        self._connection = http.client.HTTPSConnection(
            str(where.hostname), where.port, context=context, timeout=HANG_LIMIT_S
        )
        self._headers = {"Authorization": f"Bearer {token}", **(headers or {})}
        self._asked_s = time.monotonic()

    def ask(self, request: Request) -> Answer:
        """Send it, once."""
        if time.monotonic() - self._asked_s > IDLE_S:
            self._connection.close()  # `request` opens it again
        self._asked_s = time.monotonic()
        kind = MERGE_PATCH if request.method == "PATCH" else "application/json"
        sent = json.dumps(request.body or {})
        self._connection.request(request.method, request.path, sent, self._headers | {"Content-Type": kind})
        response = self._connection.getresponse()
        text = response.read().decode()
        # A watch answers with a line for each change, of which none is needed here.
        body = json.loads(text) if text.startswith("{") and "\n{" not in text else {}
        return Answer(response.status, body, response.headers)

    def close(self) -> None:
        self._connection.close()


def token(controlplane: ControlPlane, namespace: str, account: str, *bound_to: str) -> str:
    """A token of a ServiceAccount; `bound_to` are kubectl's flags that name a Pod."""
    return controlplane.kubectl("create", "token", account, f"--namespace={namespace}", *bound_to).stdout.strip()


def pod_token(controlplane: ControlPlane, namespace: str, account: str, node: str, spec: Json | None = None) -> str:
    """The token that a kubelet would mount into a Pod of this ServiceAccount on this node.

    Node and Pod are objects only, made if absent; `spec` is the Pod's, if it matters.
    """
    name = f"{account}-{node}"
    nothing = {"containers": [{"name": "nothing", "image": "nothing"}]}
    pod_spec = (spec or nothing) | {"nodeName": node, "serviceAccountName": account}
    # Nobody here would take the taint of a node that is not ready off again.
    objects = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": pod_spec},
    ]
    for made in objects:
        controlplane.kubectl("create", "-f", "-", input=json.dumps(made), check=made["kind"] == "Pod")
    uid = controlplane.kubectl("get", "pod", name, f"--namespace={namespace}", "-o", "jsonpath={.metadata.uid}").stdout
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={uid}")
    return token(controlplane, namespace, account, *bound)
