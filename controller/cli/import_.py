"""The command `virtsync import`, which writes VirtualMachine manifests for the domains that have no object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from controller.api.codec import parse
from controller.api.hypervisor import UnmanagedDomain
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.virtualmachine import VirtualMachine
from controller.cli.manifest_folder import ManifestFolder
from controller.cli.namespace_rules import read_rules
from controller.cli.options import reads
from controller.cli.program import Command, Failure
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.fleet import import_plan
from controller.fleet.import_manifest import Adoption, manifest, remarks
from controller.kube.manifests import document
from controller.presentation.words import plain_list
from controller.runtime.errors import Rejected, Transient
from controller.runtime.settings import namespace as checked_namespace
from controller.runtime.settings import node_name

EXAMPLES = """\b
Print manifests for the domains of one host; nothing is written:
  virtsync import --namespace vms --node node-a

\b
Write manifests for all hosts into a Git repository, then review, commit and apply them:
  virtsync import --namespace vms --out vms
  kubectl apply -k vms

\b
Choose the namespace by the name of the domain. The first rule whose regular expression matches the whole name counts:
  virtsync import --namespaces rules.yaml --out vms
with this rules.yaml:
  - match: db-.*
    namespace: databases
  - match: .*
    namespace: vms

\b
Read the domains from libvirt, on a host whose agent does not list them, or before there is a cluster:
  virtsync import --libvirt-uri qemu:///system --node node-a --namespace vms --out vms
  virtsync import --libvirt-uri qemu:///system --node node-a --namespace vms --out vms --offline
"""


@dataclass
class Known:
    """The hosts, their domains, and the objects that exist."""

    hosts: dict[str, tuple[UnmanagedDomain, ...]] = field(default_factory=dict)
    """The domains of each host for which there might be no object."""
    why_not: dict[str, str] = field(default_factory=dict)
    """Why a host cannot be imported; an empty string if it can be."""
    objects: list[VirtualMachine] = field(default_factory=list)


@click.command("import", cls=Command, epilog=EXAMPLES)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write DIR/<node>/<name>.yaml and kustomizations, and change no other file. By default, print the manifests.",
)
@click.option("--namespace", type=reads(checked_namespace), metavar="NS", help="Namespace of all objects.")
@click.option(
    "--namespaces",
    "rules",
    type=reads(read_rules),
    metavar="FILE",
    help="YAML file with rules that choose the namespace by the name of the domain.",
)
@click.option(
    "--node",
    "named",
    type=reads(node_name),
    multiple=True,
    metavar="NAME",
    help="Import only this host; can be repeated. By default, all hosts that are Ready.",
)
@click.option("--unpinned", is_flag=True, help="Leave out spec.nodeName, so that somebody else can set it.")
@click.option(
    "--power-state-as-seen",
    "as_seen",
    is_flag=True,
    help="Write the powerState that each domain has now, if it is Running or Stopped: virtsync then keeps the VM in"
    " that state. For a domain in another state, such as paused, write no powerState.",
)
@click.option(
    "--libvirt-uri", metavar="URI", help="Read the domains from this libvirt, which is the libvirt of --node."
)
@click.option(
    "--offline",
    is_flag=True,
    help="With --libvirt-uri: do not ask a cluster which objects exist. Take only the files in DIR into account.",
)
@with_cluster(namespaced=False)
def import_(
    *,
    cluster: Cluster,
    out: Path | None,
    namespace: str | None,
    rules: tuple[import_plan.Rule, ...] | None,
    named: tuple[str, ...],
    unpinned: bool,
    as_seen: bool,
    libvirt_uri: str | None,
    offline: bool,
) -> None:
    """Write manifests for the domains that no VirtualMachine refers to.

    The Hypervisor object of each host lists these domains (kubectl get kvmhost). Each manifest names its domain by
    UUID. Without --power-state-as-seen it has no powerState, so applying it switches nothing: virtsync then reports
    the VM as Observed. Run the command again at any time: it adds what is new, and changes no manifest that exists.
    The user must be allowed to list Hypervisors, and VirtualMachines of all namespaces.

    Exit code: 0: the manifests are printed or written, also if some hosts are left out; 2: wrong usage, or an error,
    such as no host that can be imported.
    """
    if (namespace is None) == (rules is None):
        raise click.UsageError("Give either --namespace or --namespaces.")
    if libvirt_uri and len(named) != 1:
        raise click.UsageError("--libvirt-uri needs exactly one --node: the name of the host.")
    if offline and not libvirt_uri:
        raise click.UsageError("--offline needs --libvirt-uri: without a cluster, only libvirt knows the domains.")
    try:
        folder = ManifestFolder(out) if out else None
        known = Known() if offline else _from_cluster(cluster, hint=bool(libvirt_uri))
        if libvirt_uri:
            known.hosts[named[0]], known.why_not[named[0]] = _from_libvirt(libvirt_uri), ""
        nodes = _nodes(known, named)
        namespace_of = import_plan.namespace_by(rules) if rules else lambda _name: str(namespace)
        plan = _plan(known, nodes, namespace_of, folder)
        texts = [_text(adoption, pinned=not unpinned, as_seen=as_seen) for adoption in plan.adoptions]
        if folder:
            for adoption, text in zip(plan.adoptions, texts, strict=True):
                folder.add(adoption.node, adoption.key.name, text)
            folder.write()
        else:
            click.echo("---\n".join(texts), nl=False)
    except (Rejected, Transient) as error:
        raise Failure(f"{plain_list(str(error)).rstrip('.')}.") from error
    for line in _summary(plan, {node: known.why_not[node] for node in nodes}, folder, as_seen=as_seen):
        click.echo(plain_list(line), err=True)
    if all(known.why_not[node] for node in nodes):
        raise Failure("no host can be imported.")


def _from_cluster(cluster: Cluster, *, hint: bool) -> Known:
    """Read all Hypervisors and VirtualMachines. Raises Rejected, Transient."""
    # Imported here, so that --help and the error for a wrong value appear without delay.
    from controller.kube.collection import objects  # noqa: PLC0415
    from controller.kube.paths import HYPERVISORS, VIRTUAL_MACHINES  # noqa: PLC0415

    known = Known()
    try:
        api = cluster.api
        for host in map(parse_hypervisor, objects(api, HYPERVISORS)):
            known.hosts[host.name] = host.status.unmanaged.domains if host.status.unmanaged else ()
            known.why_not[host.name] = import_plan.why_not(host)
        # The objects are read last: an object that is created in between is then known.
        known.objects += map(parse, objects(api, VIRTUAL_MACHINES))
    except (Rejected, Transient) as error:
        raise Rejected(f"{error}{'; with --offline, no cluster is needed' if hint else ''}") from error
    return known


def _from_libvirt(uri: str) -> tuple[UnmanagedDomain, ...]:
    """Read all domains of a libvirt. Raises Transient."""
    from controller.hypervisor.listing import domains_of  # noqa: PLC0415

    try:
        found = domains_of(uri)
    except Transient as error:
        raise Transient(f"the libvirt {uri} does not answer: {error}") from error
    return tuple(
        UnmanagedDomain(one.uuid, one.name, one.phase.power_state, one.reason, transient=not one.persistent)
        for one in found
    )


def _nodes(known: Known, named: Iterable[str]) -> list[str]:
    """Return the hosts to import, sorted. Raises Rejected if a named host cannot be imported, or if there is none."""
    for node in sorted(named):
        if node not in known.hosts:
            raise Rejected(f"{node}: there is no Hypervisor of this name (kubectl get kvmhost). {_instead(node)}")
        if why_not := known.why_not[node]:
            raise Rejected(f"{node}: {why_not}. {_instead(node)}")
    if not known.hosts:
        raise Rejected(f"there is no Hypervisor, because no agent has reported yet. {_instead('NAME')}")
    return sorted(set(named) or known.hosts)


def _instead(node: str) -> str:
    return f"`virtsync import --libvirt-uri qemu:///system --node {node}` on the host can import it"


def _plan(
    known: Known, nodes: Iterable[str], namespace_of: Callable[[str], str], folder: ManifestFolder | None
) -> import_plan.Plan:
    """Plan the objects of the hosts that can be imported. Raises Rejected if a domain has no namespace."""
    usable = {node for node in nodes if not known.why_not[node]}
    objects = known.objects + (folder.objects if folder else [])
    try:
        return import_plan.plan(known.hosts, usable, objects, namespace_of, folder.files if folder else ())
    except ValueError as error:
        raise Rejected(str(error)) from error


def _text(adoption: Adoption, *, pinned: bool, as_seen: bool) -> str:
    below = [] if as_seen or not adoption.suggested else [f"powerState: {adoption.suggested}"]
    return document(manifest(adoption, pinned=pinned, power_state=as_seen), above=remarks(adoption), below=below)


def _summary(
    plan: import_plan.Plan, why_not: Mapping[str, str], folder: ManifestFolder | None, *, as_seen: bool
) -> Iterator[str]:
    an_object = "an object or a file" if folder and folder.objects else "an object"
    domains = Counter(adoption.node for adoption in plan.adoptions)
    on = Counter(adoption.node for adoption in plan.adoptions if adoption.on)
    for node, reason in why_not.items():
        if reason:
            yield f"{node}: {reason}, left out. {_instead(node)}."
        elif not domains[node]:
            yield f"{node}: every domain has {an_object}."
        else:
            written = f": {_count(domains[node], 'file')} in {folder.root / node}" if folder else ""
            yield f"{node}: {_count(domains[node], 'domain')} without {an_object}, {on[node]} of them on{written}."
    yield from plan.left_out
    if plan.adoptions and as_seen:
        counts = Counter(str(adoption.suggested or "none") for adoption in plan.adoptions)
        seen = f"{counts['Running']} Running, {counts['Stopped']} Stopped"
        yield f"powerState was written as seen: {seen}; {counts['none']} have none, because their state is neither."
    elif plan.adoptions:
        yield "No powerState was written: applied as they are, these manifests switch nothing."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
