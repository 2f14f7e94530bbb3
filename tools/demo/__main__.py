"""The command: `python -m demo`."""

from __future__ import annotations

import shlex
import statistics
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from demo import fleet, host
from demo.narration import Stage, console
from lab import LabError, processes
from lab.trace import event_loop


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--fleet", "with_fleet", is_flag=True, envvar="FLEET", help="Add a second host and a manager.")
@click.option("--keep", is_flag=True, envvar="KEEP", help="Leave everything running at the end, until Ctrl-C.")
def main(*, with_fleet: bool, keep: bool) -> None:
    """Show virtsync at work on real parts; the exit code says whether every step was seen."""
    try:
        tell(with_fleet=with_fleet, keep=keep)
    except subprocess.CalledProcessError as error:
        raise LabError(f"{shlex.join(map(str, error.cmd))} failed: {error.stderr.strip()}") from None


def tell(*, with_fleet: bool, keep: bool) -> None:
    """Start everything, play the steps, stop everything."""
    console.print("virtsync: Git says which VMs are on", style="bold")
    began_s = time.monotonic()
    with (
        processes.terminating(),
        tempfile.TemporaryDirectory(prefix="virtsync-") as name,
        event_loop(),
        host.set_up(Path(name)) as (stage, guests),
        ExitStack() as more,
    ):
        host.play(stage, guests)
        if with_fleet:
            agent, guest = more.enter_context(fleet.set_up(stage))
            fleet.play(stage, agent, guest)
        sum_up(stage, time.monotonic() - began_s)
        if keep:
            invite(stage)
            wait_for_interrupt()
    if not keep:
        console.print("All of it is gone again. `make demo KEEP=1` leaves it running for you to try.")


def sum_up(stage: Stage, took_s: float) -> None:
    """Print the latencies."""
    delays = stage.delays_ms
    console.print(
        f"\nEvery step was seen, in {took_s:.0f} s. From libvirt's event to the status that a watch shows: "
        f"{statistics.median(delays):.1f} ms (median of {len(delays)}), {max(delays):.1f} ms at most.",
        style="bold",
    )


def invite(stage: Stage) -> None:
    """Print how to continue manually."""
    console.print("\nGo on in another terminal; Ctrl-C here ends everything:", style="bold")
    lines = (
        f"export KUBECONFIG={stage.controlplane.kubeconfig} PATH={stage.controlplane.assets}:$PATH",
        f"export LIBVIRT_DEFAULT_URI='{stage.libvirtd.uri}'",
        f"cd {stage.git_folder}",
        "kubectl get kvm --watch &",
        "virsh suspend web-1",
        "kubectl describe kvm web-1",
    )
    for line in lines:
        console.print(f"   {line}")


def wait_for_interrupt() -> None:
    """Wait until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
