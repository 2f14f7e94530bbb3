"""The command `virtsync enroll`, which gives a host that is not a node the identity of its agent, or takes it away."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from controller.api.clock import api_time
from controller.api.names import HOST_ACCOUNT_PREFIX
from controller.api.setting import Duration
from controller.cli.options import INSTALLED_IN, installed_in, reads
from controller.cli.program import Command
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.policy.renewal import LEAST_LIFETIME_S, MOST_LIFETIME_S
from controller.runtime.errors import Forbidden, Rejected, Transient
from controller.runtime.settings import node_name

if TYPE_CHECKING:
    from controller.kube.hosts.enrollment import Enrollment, Place

LONGEST_NAME = 253 - len(HOST_ACCOUNT_PREFIX)
ON_HOST, PROGRAM = "/var/lib/virtsync/kubeconfig", "/opt/virtsync/bin/virtsync"
"""Where deploy/systemd/virtsync-agent.service expects the kubeconfig and the program."""
EPILOG = """\b
Enroll a host, and let its agent begin:
  virtsync enroll kvm-7
  ssh root@kvm-7 'umask 077; mkdir -p /var/lib/virtsync; cat > /var/lib/virtsync/kubeconfig' < kvm-7.kubeconfig

\b
Keep the objects in Git; then only the token is made here:
  virtsync enroll kvm-7 --manifests > kvm-7.yaml
  kubectl apply -f kvm-7.yaml && virtsync enroll kvm-7

\b
A host was stolen, or is gone:
  virtsync enroll kvm-7 --revoke

\b
virtsync is installed in another namespace than virtsync-system:
  virtsync enroll kvm-7 --namespace kvm
  virtsync enroll kvm-7 --namespace kvm --revoke
"""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the options ask for."""

    host: str
    namespace: str
    out: Path
    server: str
    lifetime_s: float


def host_name(text: str) -> str:
    """Return the name of a host after checking it. Raises ValueError with a message."""
    name = node_name(text)
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{text!r} is too long for the name of a host (at most {LONGEST_NAME}).")
    return name


@click.command(
    "enroll",
    cls=Command,
    epilog=EPILOG,
    short_help="Create the identity and kubeconfig for a host outside the cluster.",
)
@click.argument("host", type=reads(host_name))
@installed_in("The namespace in which virtsync is installed.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the kubeconfig of the agent to this file, which only you can read.  [default: HOST.kubeconfig]",
)
@click.option(
    "--server",
    metavar="URL",
    default="",
    help="The https URL of the API server as the host reaches it.  [default: that of your kubeconfig, and its proxy]",
)
@click.option(
    "--lifetime",
    "lifetime_s",
    type=reads(Duration(least_s=LEAST_LIFETIME_S).parse),
    metavar="DURATION",
    default=f"{MOST_LIFETIME_S // 3600}h",
    show_default=True,
    help="How long each token is valid, at most 720h. The agent renews it after 50 to 60 % of this time.",
)
@click.option("--manifests", is_flag=True, help="Print the objects as YAML, and do nothing else.")
@click.option("--revoke", is_flag=True, help="Delete the objects, so that each token of the host becomes invalid.")
@with_cluster(namespaced=False)
def enroll(
    host: str,
    *,
    cluster: Cluster,
    namespace: str,
    out: Path | None,
    server: str,
    lifetime_s: float,
    manifests: bool,
    revoke: bool,
) -> None:
    """Create the identity of the agent of HOST, which is not a node of the cluster.

    The command creates a ServiceAccount for this host alone, and writes a kubeconfig with a token of that account. The
    policies confine the account to this host, as they confine the agent of a node to its node. The agent renews the
    token itself. Run the command again at any time: it restores what is missing or was changed, and writes a new token.
    Earlier tokens stay valid until they expire, or until --revoke.

    HOST becomes spec.nodeName of the host's VMs, the name of its Hypervisor, and the --node-name of its agent.

    Exit code: 0: the host is enrolled, or with --revoke it is not enrolled any more; 2: wrong usage, or an error.
    """
    if manifests and revoke:
        raise click.UsageError("Give either --manifests or --revoke.")
    if lifetime_s > MOST_LIFETIME_S:
        raise click.UsageError(f"--lifetime is at most {MOST_LIFETIME_S // 3600}h: an agent may not request more.")
    if manifests:
        click.echo(_manifests(host, namespace), nl=False)
        return
    # Imported here, so that --help and the error for a wrong value appear without delay.
    from controller.kube.hosts.enrollment import Enrollment  # noqa: PLC0415

    enrollment = Enrollment(cluster.api, namespace)
    if revoke:
        _revoke(enrollment, host, namespace)
        return
    wish = _Wish(host, namespace, out or Path(f"{host}.kubeconfig"), server, lifetime_s)
    _enroll(cluster, enrollment, wish)


def _enroll(cluster: Cluster, enrollment: Enrollment, wish: _Wish) -> None:
    from controller.kube.hosts.enrollment import objects_of  # noqa: PLC0415
    from controller.kube.hosts.kubeconfig import cluster_of, is_of_host, of_host, write  # noqa: PLC0415
    from controller.kube.hosts.token import read_token  # noqa: PLC0415

    host, namespace, out = wish.host, wish.namespace, wish.out
    if out.exists() and not is_of_host(out, host):
        raise Rejected(f"{out} exists, and is not a kubeconfig of {host}: choose another file (--out)")
    if not os.access(out.absolute().parent, os.W_OK | os.X_OK):
        raise Rejected(f"{out} cannot be written: you may not write to the folder {out.absolute().parent}")
    reached = cluster_of(cluster.api.credentials.current(), wish.server)  # raises Rejected before anything is created
    again = f"virtsync enroll {host} --namespace {namespace}"
    with _advice(f"this shows whether virtsync is installed, so ask somebody who has this right to run `{again}`"):
        enrollment.check_installed()
    with _advice(f"this shows where {host} is enrolled, so ask somebody who has this right to run `{again}`"):
        _refuse_elsewhere(enrollment, host, namespace, instead=", or revoke it there first")
    if _is_node(enrollment, host):
        click.echo(f"{host} is also a node of this cluster: only one agent can act for this name.", err=True)
    with _advice(f"somebody who may create it can run `{again} --manifests | kubectl apply -f -`; then run this again"):
        for place in objects_of(host, namespace):
            if done := enrollment.ensure(place):
                click.echo(f"{done} {place}", err=True)
    with _advice(f"you need the right to create serviceaccounts/token in namespace {namespace}"):
        token = enrollment.token(host, wish.lifetime_s)
    write(out, of_host(reached, host, token).encode())
    found = read_token(token)
    until = f", valid until {api_time(found.lifetime.expires)}" if found else ""
    click.echo(f"Wrote {out} (mode 0600), with a token of {host}{until}.", err=True)
    for line in (*_warnings(wish, reached), *_next_steps(wish)):
        click.echo(line, err=True)


def _warnings(wish: _Wish, reached: dict[str, Any]) -> Iterator[str]:
    """Yield what the host can probably not reach in the cluster of its kubeconfig."""
    from controller.kube.kubeconfig import PROXY_FIELD  # noqa: PLC0415
    from controller.kube.proxies import is_loopback  # noqa: PLC0415

    for field, advice in (
        ("server", f"give the one that {wish.host} can reach (--server)"),
        (PROXY_FIELD, f"change {PROXY_FIELD} in {wish.out} to what {wish.host} can reach, or remove it"),
    ):
        if (url := reached.get(field)) and is_loopback(urlsplit(url).hostname or ""):
            yield f"{url} is an address of this machine: {advice}."


def _next_steps(wish: _Wish) -> Iterator[str]:
    host, out = wish.host, shlex.quote(str(wish.out))
    yield ""
    yield "Next:"
    yield f"  ssh root@{host} 'umask 077; mkdir -p /var/lib/virtsync; cat > {ON_HOST}' < {out}"
    yield f"  rm {out}    # whoever has it is the agent of {host}"
    yield f"Then on {host}, as root:"
    checked = f"--node-name {host} --kubeconfig {ON_HOST} --lease-namespace {wish.namespace}"
    yield f"  {PROGRAM} check {checked}"
    yield f"  echo NODE_NAME={host} >> /etc/default/virtsync-agent"
    if wish.namespace != INSTALLED_IN:
        yield f"  echo POD_NAMESPACE={wish.namespace} >> /etc/default/virtsync-agent"
    yield "  systemctl enable --now virtsync-agent"


def _revoke(enrollment: Enrollment, host: str, namespace: str) -> None:
    from controller.kube.hosts.enrollment import objects_of  # noqa: PLC0415

    with _advice(f"somebody who may delete it can run `virtsync enroll {host} --namespace {namespace} --revoke`"):
        _refuse_elsewhere(enrollment, host, namespace)
        # The ServiceAccount is the first: without it, no token of it is valid.
        deleted = [place for place in objects_of(host, namespace) if _deleted(enrollment, place, host)]
    if not deleted:
        click.echo(f"{host} is not enrolled in namespace {namespace}.", err=True)
        return
    click.echo(
        f"If the host is gone: kubectl delete kvmhost {host}; kubectl -n {namespace} delete lease {host}", err=True
    )


def _refuse_elsewhere(enrollment: Enrollment, host: str, namespace: str, *, instead: str = "") -> None:
    """Raise Rejected if the host is enrolled in another namespace: its rights are those of the account there."""
    if found := enrollment.elsewhere(host):
        raise Rejected(f"{host} is enrolled in namespace {found}, not in {namespace}: use --namespace {found}{instead}")


def _deleted(enrollment: Enrollment, place: Place, host: str) -> bool:
    """Delete an object and say so at once, because the next deletion might fail. Return whether it existed."""
    if not enrollment.delete(place):
        return False
    click.echo(f"Deleted {place}", err=True)
    if place.manifest["kind"] == "ServiceAccount":
        no_token = f"Within 10 seconds the API server accepts no token of {host}."
        click.echo(f"{no_token} Its VMs keep running, and nothing manages them.", err=True)
    return True


def _manifests(host: str, namespace: str) -> str:
    from controller.kube.hosts.enrollment import objects_of  # noqa: PLC0415
    from controller.kube.manifests import document  # noqa: PLC0415

    return "---\n".join(document(place.manifest) for place in objects_of(host, namespace))


def _is_node(enrollment: Enrollment, host: str) -> bool:
    try:
        return enrollment.is_node(host)
    except Forbidden:
        return False


@contextmanager
def _advice(advice: str) -> Iterator[None]:
    """Add this advice to the error of a user who lacks a right. Raises Transient."""
    try:
        yield
    except Forbidden as error:
        raise Transient(f"{error}; {advice}") from error
