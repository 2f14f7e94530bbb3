"""A demonstration of virtsync on the terminal; `make demo` runs it.

All parts are real, on this machine: an API server, a libvirtd with three QEMU guests, the agent, a Git repository. Two
witnesses that are independent of the agent show what happens: libvirt's events show what the host does, and a watch
shows the API server's objects. Each step waits until they have shown its result; the first failed step ends the demo.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
import libvirt
from rich.console import Console

from lab import LabError, processes
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.trace import LIFECYCLE, event_loop

ROOT = Path(__file__).parents[1]
CRDS = ROOT / "deploy" / "crds"
EXAMPLES = ROOT / "examples" / "git"
NODE = "node-a"
HANG_LIMIT_S = 60
POLL_INTERVAL_S = 0.05

# By default the agent waits 10 s before it corrects a change, and 15 min after a pause; the demo needs less.
SETTLE_TIMES = {"settle-power": "2s", "settle-pause": "2s"}

# libvirt's event for each lasting power state; a start also sends RESUMED, before STARTED. ShuttingDown is not timed:
# while libvirt ends a QEMU, for up to 200 ms, it does not answer queries about the domain.
BROUGHT_ABOUT_BY = {
    "Running": "RESUMED",
    "Paused": "SUSPENDED",
    "Stopped": "STOPPED",
    "Crashed": "STOPPED",
}

# Reasons whose message adds nothing.
SELF_EXPLAINING = {"InSync", "Observed"}

console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class HostEvent:
    """An event of libvirt about a domain, and its time."""

    vm: str
    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """An object version of a VM from the watch, and its time."""

    vm: str
    status: dict[str, Any]
    at_s: float

    @property
    def power(self) -> str:
        """`status.powerState`."""
        return str(self.status["powerState"])

    @property
    def reason(self) -> str:
        """The reason of the condition Ready."""
        return str(self._ready["reason"])

    @property
    def message(self) -> str:
        """The message of the condition Ready."""
        return str(self._ready["message"])

    @property
    def cause(self) -> str:
        """Why the VM went off, while it is off."""
        off = self.power in {"Stopped", "Crashed"}
        return str(self.status["lastStop"]["cause"]) if off and "lastStop" in self.status else ""

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Everything that the demo prints about it."""
        return self.power, self.cause, self.reason, self.message

    @property
    def _ready(self) -> dict[str, Any]:
        return next(one for one in self.status["conditions"] if one["type"] == "Ready")


class Witnesses:
    """Records libvirt's events and the API server's watch, with their times.

    Use it as a context manager while `event_loop` runs.
    """

    def __init__(self, controlplane: ControlPlane, libvirtd: Libvirtd) -> None:
        self.events: list[HostEvent] = []
        self.reports: list[Report] = []
        self._news = threading.Condition()
        self._host = libvirt.open(libvirtd.uri)
        self._callback = self._host.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None
        )
        self._api = http.client.HTTPSConnection(
            controlplane.url.removeprefix("https://"), context=ssl.create_default_context(cafile=controlplane.ca)
        )
        self._api.request(
            "GET",
            "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines?watch=true",
            headers={"Authorization": f"Bearer {controlplane.token}"},
        )
        # The API server answers a watch with its first line, so do not wait for the answer here.
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watching.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The end of the connection ends the thread that reads from it, and the API server can stop immediately.
        self._api.sock.shutdown(socket.SHUT_RDWR)
        self._watching.join()
        self._host.domainEventDeregisterAny(self._callback)
        self._host.close()

    def wait_for_news(self, known: int, timeout_s: float) -> None:
        """Return when there are more reports than this number, or after a timeout."""
        with self._news:
            self._news.wait_for(lambda: len(self.reports) > known, timeout_s)

    def delay_ms(self, report: Report) -> float | None:
        """How long after libvirt's event a new power state was reported; None if no event caused it."""
        name = BROUGHT_ABOUT_BY.get(report.power)
        times = [e.at_s for e in self.events if (e.vm, e.name) == (report.vm, name) and e.at_s < report.at_s]
        return (report.at_s - times[-1]) * 1000 if times else None

    def _on_event(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        self.events.append(HostEvent(domain.name(), LIFECYCLE[event], time.monotonic()))

    def _watch(self) -> None:
        # If the watch ends too early, the step that waits for it reports that.
        with suppress(OSError, http.client.HTTPException):
            for line in self._api.getresponse():
                at_s = time.monotonic()
                changed = json.loads(line)["object"]
                with self._news:
                    self.reports.append(Report(changed["metadata"]["name"], changed["status"], at_s))
                    self._news.notify_all()


class Stage:
    """The parts of the demo, and how it prints them."""

    def __init__(
        self, folder: Path, controlplane: ControlPlane, libvirtd: Libvirtd, agent: Agent, witnesses: Witnesses
    ) -> None:
        self.controlplane = controlplane
        self.libvirtd = libvirtd
        self.agent = agent
        self.witnesses = witnesses
        self.git_folder = folder / "git"
        self.delays_ms: list[float] = []
        self._steps = 0
        self._acted_s = 0.0
        self._told = 0
        self._seen: dict[str, int] = {}
        self._last: dict[str, Report] = {}

    def step(self, title: str) -> None:
        """Begin a step of the demo."""
        self._steps += 1
        console.print(f"\n{self._steps}. {title}", style="bold")

    def commit(self, message: str) -> None:
        """Commit the changes in the folder, and apply them to the cluster, as Argo CD or Flux would."""
        self._act(f"git commit --all --message {message!r}")
        git(self.git_folder, "commit", "--all", "--message", message)
        self.kubectl("apply", "-f", ".")

    def kubectl(self, *words: str) -> None:
        """Run kubectl, as a user would in the folder."""
        self._act(shlex.join(["kubectl", *words]))
        self.controlplane.kubectl(*[str(self.git_folder) if word == "." else word for word in words])

    def virsh(self, *words: str) -> None:
        """Run virsh, as an administrator on the host would."""
        self._act(shlex.join(["virsh", *words]))
        self.libvirtd.virsh(*words)

    def do(self, command: str, act: Callable[[], None]) -> None:
        """Do something without a tool; print the command that a user would type."""
        self._act(command)
        act()

    def until(self, vm: str, power: str, reason: str, *, cause: str = "") -> None:
        """Print all reports until a VM has this state, counted from the last wait; LabError if it does not come."""
        deadline = time.monotonic() + HANG_LIMIT_S
        while True:
            reports = self.witnesses.reports[:]
            self._tell_all(reports)
            for index in range(self._seen.get(vm, 0), len(reports)):
                report = reports[index]
                if (report.vm, report.power, report.reason, report.cause) == (vm, power, reason, cause):
                    self._seen[vm] = index + 1
                    return
            if not self.agent.running:
                raise self._failure("The agent ended")
            if time.monotonic() > deadline:
                raise self._failure(self._unseen(vm, f"{power} ({reason})"))
            self.witnesses.wait_for_news(len(reports), timeout_s=1)

    def table(self) -> None:
        """Print the output of kubectl."""
        console.print("   $ kubectl get kvm", style="cyan")
        for line in self.controlplane.kubectl("get", "kvm").stdout.splitlines():
            console.print(f"   {line}")

    def _act(self, command: str) -> None:
        console.print(f"   $ {command}", style="cyan")
        self._acted_s = time.monotonic()

    def _tell_all(self, reports: list[Report]) -> None:
        for report in reports[self._told :]:
            before = self._last.get(report.vm)
            if report.reason != "Pending" and (before is None or before.words != report.words):
                self._tell(report, before)
            self._last[report.vm] = report
        self._told = len(reports)

    def _tell(self, report: Report, before: Report | None) -> None:
        state = f"{report.power} (cause: {report.cause})" if report.cause else report.power
        line = f"   {report.at_s - self._acted_s:6.2f} s  {report.vm}: {state}, {report.reason}"
        is_news = before is not None and before.power != report.power
        if is_news and (delay_ms := self.witnesses.delay_ms(report)) is not None:
            self.delays_ms.append(delay_ms)
            line += f"   [{delay_ms:.1f} ms after libvirt's event]"
        console.print(line)
        if report.reason not in SELF_EXPLAINING and (before is None or before.message != report.message):
            console.print(f"             {report.message}", style="dim")

    def _unseen(self, vm: str, wanted: str) -> str:
        last = self._last.get(vm)
        found = f"it is {last.power} ({last.reason}: {last.message})" if last else "nothing is reported of it"
        return f"{vm} was not reported {wanted} within {HANG_LIMIT_S} s: {found}"

    def _failure(self, what: str) -> LabError:
        return LabError(f"{what}; the end of the agent's log:\n{processes.last_lines(self.agent.log)}")


def git(folder: Path, *words: str) -> None:
    """Run git without any user's settings, hooks or keys."""
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    author = ["-c", "user.name=demo", "-c", "user.email=demo@example.com", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *author, *words], cwd=folder, env=env, check=True, capture_output=True, text=True)


# --- the story -------------------------------------------------------------------------------------------------------


def first_sight(stage: Stage) -> None:
    """Three manifests meet three domains: one is off, two run already."""
    stage.step("First sight: Git wants web-1 and db-1 on. web-1 is off; of legacy-1 the status is told, no more.")
    stage.kubectl("apply", "-f", ".")
    stage.until("db-1", "Running", "InSync")
    stage.until("legacy-1", "Running", "Observed")
    stage.until("web-1", "Running", "InSync")
    stage.table()


def vm_dies(stage: Stage, web: Guest) -> None:
    """A crash is told with its cause, and answered at once."""
    stage.step("A VM dies, as by the kernel's OOM killer, and comes back.")
    stage.do("kill -9 $(pgrep -f guest=web-1)", web.kill)
    stage.until("web-1", "Crashed", "Starting", cause="Crash")
    stage.until("web-1", "Running", "InSync")
    stage.table()


def behind_its_back(stage: Stage) -> None:
    """What somebody does on the host is told at once, and put right when they seem to be done."""
    stage.step("Somebody is at work on the host. The status follows at once; virtsync acts when they seem to be done.")
    stage.virsh("destroy", "db-1")
    stage.until("db-1", "Stopped", "Settling", cause="External")
    stage.table()
    stage.until("db-1", "Running", "InSync")
    stage.virsh("suspend", "web-1")
    stage.until("web-1", "Paused", "Settling")
    stage.table()
    stage.until("web-1", "Running", "InSync")


def commits(stage: Stage, web: Guest) -> None:
    """Git switches a VM off, and on again."""
    stage.step("A commit switches web-1 off, as its guest likes it: by the power button. Its revert switches it on.")
    web.wait_until_booted()
    manifest = stage.git_folder / "web-1.yaml"
    manifest.write_text(manifest.read_text().replace("powerState: Running", "powerState: Stopped"))
    stage.commit("web-1: off for the night")
    stage.until("web-1", "Stopped", "InSync", cause="Agent")
    stage.table()
    manifest.write_text(manifest.read_text().replace("powerState: Stopped", "powerState: Running"))
    stage.commit('Revert "web-1: off for the night"')
    stage.until("web-1", "Running", "InSync")


def hold(stage: Stage) -> None:
    """While a VM is held, it is only told of."""
    stage.step("Ann holds db-1 for a backup: virtsync tells what happens to it, and does nothing until she lets go.")
    stage.kubectl("annotate", "kvm", "db-1", "hold.virtsync.dev/ann=backup")
    stage.virsh("suspend", "db-1")
    stage.until("db-1", "Paused", "Held")
    stage.table()
    stage.kubectl("annotate", "kvm", "db-1", "hold.virtsync.dev/ann-")
    stage.until("db-1", "Paused", "Settling")
    stage.until("db-1", "Running", "InSync")


def observe_only(stage: Stage, legacy: Guest) -> None:
    """Without powerState a VM is only told of."""
    stage.step("legacy-1 has no powerState: it goes off, and that is its own business.")
    legacy.wait_until_booted()
    stage.do("poweroff   # inside legacy-1", legacy.poweroff)
    stage.until("legacy-1", "Stopped", "Observed", cause="Guest")
    stage.table()


# --- before and after ------------------------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, envvar="KEEP", help="Leave everything running at the end, until Ctrl-C.")
def main(*, keep: bool) -> None:
    """Show virtsync at work on real parts; the exit code says whether every step was seen."""
    try:
        tell(keep=keep)
    except subprocess.CalledProcessError as error:
        raise LabError(f"{shlex.join(map(str, error.cmd))} failed: {error.stderr.strip()}") from None


def tell(*, keep: bool) -> None:
    """Start everything, run the steps, stop everything."""
    began_s = time.monotonic()
    with (
        processes.terminating(),
        tempfile.TemporaryDirectory(prefix="virtsync-") as name,
        event_loop(),
        set_up(Path(name)) as (stage, guests),
    ):
        first_sight(stage)
        vm_dies(stage, guests["web-1"])
        behind_its_back(stage)
        commits(stage, guests["web-1"])
        observe_only(stage, guests["legacy-1"])
        hold(stage)
        sum_up(stage, time.monotonic() - began_s)
        if keep:
            invite(stage)
            wait_for_interrupt()
    if not keep:
        console.print("All of it is gone again. `make demo KEEP=1` leaves it running for you to try.")


@contextmanager
def set_up(folder: Path) -> Iterator[tuple[Stage, dict[str, Guest]]]:
    """Start everything, with two of the three guests running, and stop it at the end."""
    console.print("virtsync: Git says which VMs are on", style="bold")
    with ExitStack() as parts:
        try:
            with progress("an API server that knows VirtualMachines"):
                controlplane = parts.enter_context(ControlPlane(folder / "controlplane"))
                install_crd(controlplane)
            with progress("a libvirtd with three QEMU guests"):
                # A short name, because the paths of sockets must be short.
                libvirtd = parts.enter_context(Libvirtd(folder / "kvm"))
                guests = {name: libvirtd.define(name) for name in ("web-1", "db-1", "legacy-1")}
                guests["db-1"].start()
                guests["legacy-1"].start()
            with progress("a Git repository with three manifests"):
                shutil.copytree(EXAMPLES, folder / "git")
                git(folder / "git", "init")
                git(folder / "git", "add", ".")
                git(folder / "git", "commit", "--message", "Three VMs")
            with progress(f"the agent of {NODE}, its settle times cut down to {SETTLE_TIMES['settle-power']}"):
                agent = Agent(controlplane, libvirtd.uri, NODE, log=folder / "agent.log", settings=SETTLE_TIMES)
                parts.callback(agent.stop)
                agent.start()
            witnesses = parts.enter_context(Witnesses(controlplane, libvirtd))
            yield Stage(folder, controlplane, libvirtd, agent, witnesses), guests
        finally:
            # The clean-up takes two seconds; a second Ctrl-C would leave it incomplete.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def install_crd(controlplane: ControlPlane) -> None:
    """Install the CRD, and return when kubectl knows VirtualMachines."""
    controlplane.kubectl("apply", "-f", str(CRDS))
    deadline = time.monotonic() + HANG_LIMIT_S
    while controlplane.kubectl("get", "kvm", check=False).returncode:
        if time.monotonic() > deadline:
            raise LabError(f"The API server did not serve VirtualMachines within {HANG_LIMIT_S} s.")
        time.sleep(POLL_INTERVAL_S)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Print that something is being started, and how long it took."""
    began_s = time.monotonic()
    with console.status(f"Starting {what}"):
        yield
    console.print(f"   {time.monotonic() - began_s:6.2f} s  {what}")


def sum_up(stage: Stage, took_s: float) -> None:
    """Print the latencies, and check that the VMs that must not be touched were not."""
    if any(event.vm == "legacy-1" and event.name == "STARTED" for event in stage.witnesses.events):
        raise LabError("legacy-1 has no powerState, and yet somebody started it.")
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
