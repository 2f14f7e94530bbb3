"""The floor: the minimum work, with which the agent is compared. It is a separate process, as the agent is.

For an event: libvirt's callback puts a name into a queue, one thread takes it out and sends one bare PATCH of
`status.powerState`. For many VMs at once: one such PATCH for each, by as many threads as the agent has. The floor makes
no decisions and no comparisons, and drops no event.
"""

from __future__ import annotations

import base64
import http.client
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import libvirt

OBJECT = "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines/{}/status"
MERGE_PATCH = "application/merge-patch+json"
POWER_STATES = {libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "Paused", libvirt.VIR_DOMAIN_EVENT_RESUMED: "Running"}
TIMEOUT_S = (3.0, 10.0)
READY = "ready"
CONNECTIONS = 32

Json = dict[str, Any]
Patch = Callable[[str, Json], int]
"""Sends a merge patch to a path; the HTTP status of the answer."""


def by_official_client(kubeconfig: Path) -> Patch:
    """The client that the agent uses."""
    # Imported here, so that the other floor does not load it.
    from kubernetes.client.api_client import ApiClient  # noqa: PLC0415
    from kubernetes.client.configuration import Configuration  # noqa: PLC0415
    from kubernetes.config import kube_config  # noqa: PLC0415

    configuration = Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS  # as in the agent: otherwise threads discard connections
    kube_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    client = ApiClient(configuration)

    headers = {"Content-Type": MERGE_PATCH}
    client.update_params_for_auth(headers, [], ["BearerToken"], "", "PATCH", None)

    def patch(path: str, body: Json) -> int:
        answer = client.rest_client.request(
            "PATCH", configuration.host + path, headers=headers, body=body, _request_timeout=TIMEOUT_S
        )
        answer.read()
        return int(answer.status)

    return patch


def by_standard_library(kubeconfig: Path) -> Patch:
    """`http.client` on one TLS connection that is kept alive: no client can do much better."""
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    connection = http.client.HTTPSConnection(
        cluster["server"].removeprefix("https://"),
        context=ssl.create_default_context(cadata=authority),
        timeout=TIMEOUT_S[1],
    )
    headers = {"Content-Type": MERGE_PATCH, "Authorization": f"Bearer {user['token']}"}

    def patch(path: str, body: Json) -> int:
        connection.request("PATCH", path, json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return patch


CLIENTS: dict[str, Callable[[Path], Patch]] = {"kubernetes": by_official_client, "http.client": by_standard_library}


@click.group()
def main() -> None:
    """The floors."""


@main.command()
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.argument("libvirt_uri")
@click.argument("kubeconfig", type=click.Path(path_type=Path))
@click.argument("prefix")
def events(client: str, libvirt_uri: str, kubeconfig: Path, prefix: str) -> None:
    """Report the pauses and resumes of the domains whose names begin with PREFIX, until killed."""
    patch = CLIENTS[client](kubeconfig)
    changes: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def changed(_connection: object, domain: Any, event: int, _detail: int, _opaque: object) -> None:
        name = domain.name()
        if name.startswith(prefix) and event in POWER_STATES:
            changes.put((name, POWER_STATES[event]))

    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=run_event_loop, daemon=True).start()
    connection = libvirt.open(libvirt_uri)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, None)
    print(READY, flush=True)
    while True:
        name, power = changes.get()
        report(patch, name, {"powerState": power})


@main.command()
@click.argument("kubeconfig", type=click.Path(path_type=Path))
@click.argument("threads", type=int)
@click.argument("statuses", type=click.Path(path_type=Path))
def burst(kubeconfig: Path, threads: int, statuses: Path) -> None:
    """Write all STATUSES at once, with THREADS threads. STATUSES is a JSON file with the status of each VM by name.

    Print how many seconds that took, the processor time for it, and the processor time before it, for the imports.
    """
    patch, wanted = by_official_client(kubeconfig), json.loads(statuses.read_text())
    began_s, used_s = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(lambda name: report(patch, name, wanted[name]), wanted))
    print(time.monotonic() - began_s, time.process_time() - used_s, used_s)


def report(patch: Patch, name: str, wanted: Json) -> None:
    """Send one PATCH of the status. ClickException if the API server refuses it."""
    status = patch(OBJECT.format(name), {"status": wanted})
    if status != http.HTTPStatus.OK:
        raise click.ClickException(f"The API server answered {status} to the PATCH of {name}.")


def run_event_loop() -> None:
    """Run libvirt's event loop forever."""
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    main()
