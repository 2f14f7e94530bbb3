"""Namespaces that the parts of a cluster run in, and processes in them."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster.image import pause_program
from lab import LabError
from lab.processes import Process, children_of

START_LIMIT_S = 30
END_LIMIT_S = 30


class Network:
    """A network namespace with a bridge that nodes are plugged into; it ends with its owner."""

    def __init__(self, address: str, *, log: Path) -> None:
        """`address` is that of this end, as `10.0.0.1/24`."""
        self._pause = pause_program()
        begin: list[str | Path] = [
            "unshare",
            "--net",
            "sh",
            Path(__file__).with_name("network.sh"),
            address,
            self._pause,
        ]
        self._process = Process("the network", begin, log=log)

    def start(self) -> None:
        """Make it; LabError if that fails."""
        self._process.start()
        self._process.wait_until(lambda: _is(self._process.pid, self._pause), timeout_s=START_LIMIT_S)

    def stop(self) -> None:
        """End it; what runs in it must have ended."""
        self._process.kill()

    @property
    def enter(self) -> list[str]:
        """The words before a command that run it there."""
        return ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "--"]

    def plug(self, node: "NodeNamespaces", *, port: str, address: str) -> None:
        """Connect a node to the bridge: a cable from `port` here to its eth0, which gets the address."""
        cable = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node.pid)]
        for words in (cable, ["link", "set", port, "master", "nodes", "up"]):
            self.ip(*words)
        for words in (["address", "add", address, "dev", "eth0"], ["link", "set", "eth0", "up"]):
            node.run("ip", *words)

    def unplug(self, port: str) -> None:
        """Remove a cable, if it is there."""
        subprocess.run([*self.enter, "ip", "link", "delete", port], capture_output=True, check=False)

    def ip(self, *words: str) -> None:
        """Run `ip` there."""
        run([*self.enter, "ip", *words])


class NodeNamespaces:
    """Namespaces of mounts, network, processes, hostname and IPC: a machine that shares the kernel with this one.

    Their first process reaps; with it everything in them ends, mounts and interfaces too.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._pause = pause_program()
        script = Path(__file__).with_name("node.sh")
        # --mount-proc: a process must find itself in /proc.
        apart = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc"]
        begin: list[str | Path] = [
            "unshare",
            *apart,
            "--propagation",
            "private",
            "sh",
            script,
            name,
            folder,
            self._pause,
        ]
        self._process = Process(name, begin, log=folder / "log" / "node.log")

    def start(self) -> None:
        """Make them; LabError if that fails."""
        self._process.start()
        self._process.wait_until(self._is_laid_out, timeout_s=START_LIMIT_S)

    def kill(self) -> None:
        """End all that runs in them, at once, as the loss of power would."""
        if self.running:
            with suppress(LabError, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
                # It goes last of all, and unshare when it has.
                self._process.wait_until_ended(timeout_s=END_LIMIT_S)
        self._process.kill()

    @property
    def running(self) -> bool:
        """Whether they are there."""
        return self._process.running

    @property
    def pid(self) -> int:
        """The number that their first process has here; LabError if there is none."""
        children = children_of(self._process.pid)
        if not children:
            raise LabError(f"{self._process.name} does not run.")
        return children[0]

    @property
    def enter(self) -> list[str]:
        """The words before a command that run it there."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--"]

    def run(self, *command: str | Path) -> str:
        """Run a command there; what it printed. CalledProcessError with what it said if it fails."""
        return run([*self.enter, *command])

    def root(self, path: str) -> Path:
        """Where a path of theirs is for us."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def _is_laid_out(self) -> bool:
        return any(_is(pid, self._pause) for pid in children_of(self._process.pid))


class Inside(Process):
    """A program in a node's namespaces: nsenter waits for it here, and signals go to the program itself."""

    @property
    def pid(self) -> int:
        """The number that the program has here; LabError if it does not run."""
        children = children_of(super().pid)
        if not children:
            raise LabError(f"{self.name} does not run.")
        return children[0]

    def signal(self, number: int) -> None:
        """Send the program a signal; nsenter, if it has not come to start it."""
        try:
            os.kill(self.pid, number)
        except (LabError, ProcessLookupError):
            super().signal(number)


def run(command: Sequence[str | Path]) -> str:
    """Run a command; what it printed. CalledProcessError with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error
    return done.stdout


def _is(pid: int, program: Path) -> bool:
    """Whether a process runs this program by now."""
    try:
        return Path(f"/proc/{pid}/exe").samefile(program)
    except OSError:  # it has ended
        return False
