"""The command `virtsync vm page`, which opens the page that a manager serves."""

from __future__ import annotations

import http.client
import signal
import sys
import webbrowser
from collections.abc import Iterable
from http import HTTPStatus
from time import monotonic, sleep
from types import FrameType
from typing import NoReturn

import click

from controller.api.json_mapping import Json, as_map, as_text
from controller.cli.options import installed_in
from controller.cli.program import Failure
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.forwarding import LOCALHOST, Forward, Target
from controller.runtime.errors import Transient

MANAGERS = "app.kubernetes.io/name=virtsync,app.kubernetes.io/component=manager"
PORT_NAME = "page"
"""The name of the port in the Pod of a manager (deploy/base/manager.yaml)."""
ANSWER_TIMEOUT_S = 20.0
ENDS = (signal.SIGTERM, signal.SIGHUP)
"""The signals that end the command, besides Ctrl-C."""
AGAIN_S, AGAIN_FOR_S = 2.0, 60.0
"""The pause before each attempt to connect again, and how long there are attempts."""


@click.command(short_help="Open the manager's web page.")
@installed_in("The namespace of the manager.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=0,
    help="The port on this machine.  [default: a free one]",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@with_cluster(namespaced=False)
def page(*, cluster: Cluster, namespace: str, port: int, no_browser: bool) -> None:
    """Open the page of the manager in a browser: all hosts and VMs, while they change.

    The page is forwarded from a Pod of the manager by `kubectl port-forward`, until Ctrl-C. So you need the rights to
    get and list Pods and to create pods/portforward in the namespace of the manager. The page shows the VMs of all
    namespaces.

    Exit code: 0 after Ctrl-C; 2: wrong usage, or an error.
    """
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as after nohup
            signal.signal(number, _end)
    try:
        port = _serve(cluster, _manager(cluster, namespace), port, browser=not no_browser)
        while True:
            port = _serve_again(cluster, namespace, port)
    except KeyboardInterrupt:
        return


def manager_of(pods: Iterable[Json], namespace: str) -> Target:
    """Return the manager to forward from: the first one by name that is ready. Raises Failure if there is none."""
    every = sorted(pods, key=_name)
    if not every:
        raise Failure(f"there is no manager in the namespace {namespace}. With -n, you can name another one.")
    ready = [pod for pod in every if _is_ready(pod)]
    if not ready:
        raise Failure(f"no manager in the namespace {namespace} is ready: {', '.join(map(_name, every))}.")
    for pod in ready:
        if port := _port(pod):
            return Target(namespace, _name(pod), port)
    raise Failure(f"{_name(ready[0])} has no port with the name {PORT_NAME}: it is older than this command.")


def _manager(cluster: Cluster, namespace: str) -> Target:
    """Return the manager to forward from. Raises Failure, Transient, Rejected."""
    return manager_of(cluster.reads.pods(namespace, MANAGERS), namespace)


def _serve(cluster: Cluster, target: Target, port: int, *, browser: bool) -> int:
    """Forward the page until the connection ends. Return the port on this machine.

    Raises Failure if the manager does not serve the page.
    """
    with Forward(cluster, target, local_port=port) as forward:
        _check(forward)
        click.echo(f"{forward.address} is the page of {target.pod}, until Ctrl-C.")
        if browser and not webbrowser.open(forward.address):
            click.echo("No browser could be started.", err=True)
        forward.wait()
    click.echo(f"The connection to {target.pod} has ended.", err=True)
    return forward.port


def _serve_again(cluster: Cluster, namespace: str, port: int) -> int:
    """Do the same as soon as there is a manager again. The page that is open in a browser then connects again.

    If nothing works for a minute, raises what the last attempt raised: Failure, Transient. Raises Rejected at once.
    """
    until_s = monotonic() + AGAIN_FOR_S
    while True:
        sleep(AGAIN_S)
        try:
            return _serve(cluster, _manager(cluster, namespace), port, browser=False)
        except (Failure, Transient):
            if monotonic() >= until_s:
                raise


def _check(forward: Forward) -> None:
    """Ask for the page once. Raises Failure if the manager does not serve it.

    The manager begins to read the objects now, while the browser starts.
    """
    connection = http.client.HTTPConnection(LOCALHOST, forward.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{forward.target.pod} does not serve the page: its log says why. {forward.trouble}") from error
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise Failure(f"{forward.target.pod} answers {status} instead of the page.")


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End by an exception, so that kubectl ends, too."""
    sys.exit(128 + number)


def _name(pod: Json) -> str:
    return as_text(as_map(pod.get("metadata")).get("name")) or ""


def _is_ready(pod: Json) -> bool:
    if as_map(pod.get("metadata")).get("deletionTimestamp"):
        return False
    conditions = as_map(pod.get("status")).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _port(pod: Json) -> int | None:
    """Return the port of the page; None: the Pod has none."""
    containers = as_map(pod.get("spec")).get("containers") or ()
    ports = (port for container in containers for port in container.get("ports") or ())
    return next((port["containerPort"] for port in ports if port.get("name") == PORT_NAME), None)
