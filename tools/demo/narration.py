"""What the demo prints, and how it waits for what a step expects."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from demo.witnesses import Report, Witnesses
from lab import LabError, processes
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.program import Program

HANG_LIMIT_S = 60

# Reasons whose message adds nothing.
SELF_EXPLAINING = {"InSync", "Observed"}

console = Console(highlight=False, markup=False, soft_wrap=True)


class Stage:
    """The parts of the demo, and how it prints them."""

    def __init__(
        self, folder: Path, controlplane: ControlPlane, libvirtd: Libvirtd, agent: Agent, witnesses: Witnesses
    ) -> None:
        self.folder = folder
        self.controlplane = controlplane
        self.libvirtd = libvirtd
        self.witnesses = witnesses
        self.running: list[Program] = [agent]
        """The programs that must run; the end of any of them fails the step."""
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
        places = [self.git_folder / word for word in words]
        self.controlplane.kubectl(
            *(str(place) if place.exists() else word for word, place in zip(words, places, strict=True))
        )

    def virtsync(self, *words: str, into: str) -> None:
        """Run virtsync, as a user would, and print the file of the folder into which its output goes."""
        self._act(f"{shlex.join(['virtsync', *words])} > {into}")
        env = os.environ | {"KUBECONFIG": str(self.controlplane.kubeconfig)}
        command = [sys.executable, "-m", "controller", *words]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        (self.git_folder / into).write_text(done.stdout)
        self._show(done.stderr)
        console.print(f"   $ cat {into}", style="cyan")
        self._show(done.stdout)

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
            if ended := [program for program in self.running if not program.running]:
                raise self._failure(f"{ended[0].name.capitalize()} ended", ended)
            if time.monotonic() > deadline:
                raise self._failure(self._unseen(vm, f"{power} ({reason})"), self.running)
            self.witnesses.wait_for_news(len(reports), timeout_s=1)

    def table(self, *tables: str) -> None:
        """Print the output of `kubectl get` for each of these words (`kvmhost node-b`); by default for all VMs."""
        for words in tables or ("kvm",):
            console.print(f"   $ kubectl get {words}", style="cyan")
            self._show(self.controlplane.kubectl("get", *words.split()).stdout)

    def _show(self, output: str) -> None:
        for line in output.splitlines():
            console.print(f"   {line}" if line else "")

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

    @staticmethod
    def _failure(what: str, programs: list[Program]) -> LabError:
        logs = "\n".join(f"{program.log.name}:\n{processes.last_lines(program.log)}" for program in programs)
        return LabError(f"{what}; the end of the log, {logs}")


@contextmanager
def parts_until_the_end() -> Iterator[ExitStack]:
    """A stack for parts that are ended with it, which Ctrl-C does not interrupt."""
    with ExitStack() as parts:
        try:
            yield parts
        finally:
            # The clean-up takes two seconds; a second Ctrl-C would leave it incomplete.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Print that something is being started, and how long it took."""
    began_s = time.monotonic()
    with console.status(f"Starting {what}"):
        yield
    console.print(f"   {time.monotonic() - began_s:6.2f} s  {what}")


def git(folder: Path, *words: str) -> None:
    """Run git without any user's settings, hooks or keys."""
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    author = ["-c", "user.name=demo", "-c", "user.email=demo@example.com", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *author, *words], cwd=folder, env=env, check=True, capture_output=True, text=True)
