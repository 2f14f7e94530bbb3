"""The namespaces in which the parts of a cluster run, and processes in them."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.image import pause_program
from lab import LabError
from lab.processes import Process, children_of

START_LIMIT_S = 30
END_LIMIT_S = 30


class Network:
    """A network namespace with a bridge for the nodes; it ends with its owner."""

    def __init__(self, address: str, *, log: Path) -> None:
        """`address` is the bridge's own address, such as `10.0.0.1/24`."""
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
        """Make the namespace; LabError if that fails."""
        self._process.start()
        self._process.wait_until(lambda: _is(self._process.pid, self._pause), timeout_s=START_LIMIT_S)

    def stop(self) -> None:
        """Remove the namespace; all processes in it must have ended."""
        self._process.kill()

    @property
    def enter(self) -> list[str]:
        """The words before a command that run it there."""
        return ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "--"]

    def plug(self, node: "NodeNamespaces", *, port: str, address: str) -> None:
        """Connect a node to the bridge: a veth pair from `port` here to the node's eth0, which gets the address."""
        cable = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node.pid)]
        for words in (cable, ["link", "set", port, "master", "nodes", "up"]):
            self.ip(*words)
        for words in (["address", "add", address, "dev", "eth0"], ["link", "set", "eth0", "up"]):
            node.run("ip", *words)

    def unplug(self, port: str) -> None:
        """Remove a veth pair, if it exists."""
        subprocess.run([*self.enter, "ip", "link", "delete", port], capture_output=True, check=False)

    @contextmanager
    def disconnected(self, port: str) -> Iterator[None]:
        """Take a port off the bridge for some time, as if a switch failed; its node's interface stays up."""
        self.ip("link", "set", port, "nomaster")
        try:
            yield
        finally:
            self.ip("link", "set", port, "master", "nodes")

    def ip(self, *words: str) -> None:
        """Run `ip` in the namespace."""
        run([*self.enter, "ip", *words])


class NodeNamespaces:
    """Namespaces of mounts, network, processes, hostname and IPC: like a machine that shares the kernel with this one.

    Their first process reaps orphans; when it ends, everything in the namespaces ends, mounts and interfaces too.
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
        """Make the namespaces; LabError if that fails."""
        self._process.start()
        self._process.wait_until(self._is_laid_out, timeout_s=START_LIMIT_S)

    def kill(self) -> None:
        """End all processes in the namespaces immediately, like a power failure."""
        if self.running:
            with suppress(LabError, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
                # The first process ends last, and then unshare ends.
                self._process.wait_until_ended(timeout_s=END_LIMIT_S)
        self._process.kill()

    @property
    def running(self) -> bool:
        """Whether the namespaces exist."""
        return self._process.running

    @property
    def pid(self) -> int:
        """The process id that their first process has outside; LabError if there is none."""
        children = children_of(self._process.pid)
        if not children:
            raise LabError(f"{self._process.name} does not run.")
        return children[0]

    @property
    def enter(self) -> list[str]:
        """The words before a command that run it there."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--"]

    def run(self, *command: str | Path) -> str:
        """Run a command in the namespaces; its output. CalledProcessError with the error output if it fails."""
        return run([*self.enter, *command])

    def root(self, path: str) -> Path:
        """The path outside of a path in the namespaces."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def _is_laid_out(self) -> bool:
        return any(_is(pid, self._pause) for pid in children_of(self._process.pid))


class Inside(Process):
    """A program in a node's namespaces: nsenter waits for it outside, and signals go to the program itself."""

    @property
    def pid(self) -> int:
        """The process id that the program has outside; LabError if it does not run."""
        children = children_of(super().pid)
        if not children:
            raise LabError(f"{self.name} does not run.")
        return children[0]

    def signal(self, number: int) -> None:
        """Send a signal to the program, or to nsenter if that has not started the program yet."""
        try:
            os.kill(self.pid, number)
        except (LabError, ProcessLookupError):
            super().signal(number)


def run(command: Sequence[str | Path]) -> str:
    """Run a command; its output. CalledProcessError with the error output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error
    return done.stdout


def _is(pid: int, program: Path) -> bool:
    """Whether a process runs this program now."""
    try:
        return Path(f"/proc/{pid}/exe").samefile(program)
    except OSError:  # it has ended
        return False
