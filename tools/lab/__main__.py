"""The lab's commands: `python -m lab COMMAND`."""

import sys
from pathlib import Path

import click

from lab import LabError, binaries, helm, processes
from lab.controlplane import ControlPlane
from lab.guest_image import guest_image
from lab.libvirtd import Libvirtd

FOLDER = click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path, resolve_path=True))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Start and stop the real parts that virtsync's tests, demo and bench run on."""


@cli.group()
def controlplane() -> None:
    """A Kubernetes API server (etcd, kube-apiserver) on this machine, and kubectl for it."""


@controlplane.command()
def build() -> None:
    """Build the binaries with Go unless they exist, and print their folder."""
    print(binaries.build_assets())


@controlplane.command()
@FOLDER
def up(folder: Path) -> None:
    """Start a control plane in the background with its state in DIR, and print how to use it."""
    processes.start_owner(folder, [sys.executable, "-m", "lab", "controlplane", "run", str(folder)])
    print(f"export KUBECONFIG={_kubeconfig(folder)}")


@controlplane.command()
@FOLDER
def down(folder: Path) -> None:
    """Stop the control plane in DIR; the data remains for the next `up`."""
    if not processes.stop_owner(folder):
        print(f"Nothing runs in {folder}.", file=sys.stderr)


@controlplane.command()
@FOLDER
def run(folder: Path) -> None:
    """Run a control plane in the foreground until Ctrl-C or SIGTERM; prints `ready` when it is ready."""
    with processes.terminating(), ControlPlane(folder):
        processes.own_until_asked()


@controlplane.command()
@FOLDER
def kubeconfig(folder: Path) -> None:
    """Print the path of the kubeconfig of the control plane that runs in DIR."""
    print(_kubeconfig(folder))


def _kubeconfig(folder: Path) -> Path:
    path = folder / "kubeconfig"
    if not processes.owner_of(folder):
        raise LabError(f"No control plane runs in {folder}: start it with `python -m lab controlplane up {folder}`.")
    if not path.exists():
        raise LabError(f"The control plane in {folder} is still starting.")
    return path


@cli.group()
def libvirtd() -> None:
    """A separate libvirtd on this machine: a system libvirtd for root, a session libvirtd for other users."""


@libvirtd.command("up")
@FOLDER
def libvirtd_up(folder: Path) -> None:
    """Start a libvirtd in the background with its state in DIR, and print how to use it."""
    processes.start_owner(folder, [sys.executable, "-m", "lab", "libvirtd", "run", str(folder)])
    print(f"export LIBVIRT_DEFAULT_URI='{Libvirtd(folder).uri}'")


@libvirtd.command("down")
@FOLDER
def libvirtd_down(folder: Path) -> None:
    """Stop the libvirtd in DIR and all its guests; the definitions remain for the next `up`."""
    if not processes.stop_owner(folder):
        print(f"Nothing runs in {folder}.", file=sys.stderr)


@libvirtd.command("run")
@FOLDER
def libvirtd_run(folder: Path) -> None:
    """Run a libvirtd in the foreground until Ctrl-C or SIGTERM; prints `ready` when it is ready."""
    with processes.terminating(), Libvirtd(folder):
        processes.own_until_asked()


@libvirtd.command("uri")
@FOLDER
def libvirtd_uri(folder: Path) -> None:
    """Print the URI of the libvirtd that runs in DIR."""
    if not processes.owner_of(folder):
        raise LabError(f"No libvirtd runs in {folder}: start it with `python -m lab libvirtd up {folder}`.")
    print(Libvirtd(folder).uri)


@cli.group()
def guest() -> None:
    """The tiny guest operating system of the test VMs."""


@guest.command("build")
def guest_build() -> None:
    """Build the floppy image that the guest boots from, unless it exists, and print its path."""
    print(guest_image())


@cli.command("helm")
def build_helm() -> None:
    """Build Helm with Go unless it exists, and print its folder."""
    print(helm.MODULE.build())


if __name__ == "__main__":
    cli(prog_name="python -m lab")
