"""The cluster's commands: `python -m cluster COMMAND`."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import click

from cluster.cluster import NODES, Cluster
from lab import processes
from lab.binaries import CACHE

FOLDER = click.argument(
    "folder",
    metavar="[DIR]",
    default=CACHE / "cluster",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
)
IMAGES = click.option(
    "--image",
    "images",
    metavar="ARCHIVE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True),
    help="An archive of images that each node gets.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Start and stop a real cluster of two nodes on this machine; needs root."""


@cli.command()
@FOLDER
@IMAGES
def up(folder: Path, images: tuple[Path, ...]) -> None:
    """Start a cluster in the background with its state in DIR, and print how to use it."""
    words = [f"--image={image}" for image in images]
    processes.start_owner(folder, [sys.executable, "-m", "cluster", "run", str(folder), *words])
    print(what_to_try(folder))


@cli.command()
@FOLDER
@IMAGES
def run(folder: Path, images: tuple[Path, ...]) -> None:
    """Run a cluster in the foreground until Ctrl-C, SIGTERM or `down`; prints how to use it, then `ready`."""
    with processes.terminating(), Cluster(folder, images=images) as cluster:
        for node in cluster.nodes.values():
            node.define("demo")
        print(what_to_try(folder), file=sys.stderr)
        with suppress(KeyboardInterrupt):
            processes.own_until_asked()


@cli.command()
@FOLDER
def down(folder: Path) -> None:
    """End the cluster in DIR, its pods and its VMs; logs remain."""
    if not processes.stop_owner(folder):
        print(f"Nothing runs in {folder}.", file=sys.stderr)


@cli.command()
@FOLDER
def status(folder: Path) -> None:
    """Print how to use the cluster that runs in DIR; exit code 1 if none runs there."""
    if not processes.owner_of(folder):
        print(f"Nothing runs in {folder}.", file=sys.stderr)
        sys.exit(1)
    print(what_to_try(folder))


def what_to_try(folder: Path) -> str:
    """How to use the cluster in this folder, as lines for a shell."""
    cluster = Cluster(folder)
    libvirts = "\n".join(
        f"virsh -c '{node.libvirtd.uri}' list --all    # {name}" for name, node in cluster.nodes.items()
    )
    vm = {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "demo"},
        "spec": {"nodeName": NODES[0], "powerState": "Running"},
    }
    return f"""\
export KUBECONFIG={cluster.kubeconfig} PATH={cluster.controlplane.assets}:$PATH
kubectl get nodes

# The agents, on nodes that have VMs (with the image that `make image` has built before the cluster was started):
kubectl label node {" ".join(NODES)} virtsync.dev/kvm=true
kubectl apply -f deploy/crds -f deploy/install.yaml
kubectl --namespace=virtsync-system rollout status daemonset/virtsync-agent

# Each node has a VM `demo`, which is off:
{libvirts}
echo '{json.dumps(vm)}' | kubectl apply -f -
kubectl get kvm --watch

# To end the cluster with its pods and VMs: Ctrl-C where it runs in the foreground, or
PYTHONPATH=tools .venv/bin/python -m cluster down {folder}
"""


if __name__ == "__main__":
    cli(prog_name="python -m cluster")
