"""Child processes that end with their owner, also when the owner is killed with SIGKILL.

Every child has its own process group, so Ctrl-C in a terminal reaches only the owner, which then stops its children in
order. Every child also has a parent death signal: the kernel kills it if the owner ends without stopping it.
No child has its own session: Linux schedules sessions against each other (sched_autogroup), and 6.18 lets all threads
of one starve for seconds while others are busy (measured: calls to libvirtd took 11 to 29 s, and 0.3 s without).
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lab import LabError

LOG_LINES_SHOWN = 15
POLL_INTERVAL_S = 0.05

# The kernel ties a parent death signal to the thread that forked, not to its process. One thread that lives as long as
# the interpreter starts every child, so that callers may use any thread.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="process-starter")

# setpriv sets the signal. If the owner died just before that, the shell finds another parent and does not continue.
_TIED_TO_OWNER = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"')


class Process:
    """A program that the lab runs, with its output in a log file.

    It can be started again after it has ended; the log is appended to. Any thread may start it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self.env = env
        self.stdin = stdin
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; LabError if it was never started."""
        if self._child is None:
            raise LabError(f"{self.name} was not started.")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the program; does nothing if it runs."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._child = _starter.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*_TIED_TO_OWNER, str(os.getpid()), *self.command],
                stdin=self.stdin,
                stdout=log,
                stderr=log,
                env=self.env,
                process_group=0,
            )

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until `ready()` is true; LabError with the end of the log if it times out or the process ends first."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._child is None or self._child.poll() is not None:
                raise self._failure(f"ended with {self._ending()} before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {timeout_s:g} s")
            time.sleep(POLL_INTERVAL_S)

    def signal(self, number: int) -> None:
        """Send the process a signal; does nothing if it has ended."""
        if self._child is not None:
            self._child.send_signal(number)

    def wait_until_ended(self, *, timeout_s: float) -> int:
        """Wait until the process has ended on its own; its exit code, or minus the signal that ended it.

        LabError with the end of its log if it still runs; it keeps running.
        """
        if self._child is None:
            raise LabError(f"{self.name} was not started.")
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {timeout_s:g} s") from None

    def stop(self, *, timeout_s: float = 10) -> None:
        """Ask the process to end (SIGTERM), kill it if it does not end in time, and return when it has ended."""
        if self._child is None:
            return
        self.signal(signal.SIGTERM)
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the process (SIGKILL) and return when it has ended."""
        if self._child is not None:
            self.signal(signal.SIGKILL)
            self._child.wait()

    def _ending(self) -> str:
        code = self._child.returncode if self._child else None
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _failure(self, what: str) -> LabError:
        return LabError(f"{self.name} {what}; the end of {self.log}:\n{last_lines(self.log)}")


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Make processes hang (SIGSTOP): they exist and do not answer. A process that ends during that time is ignored."""
    with ExitStack() as ends:
        for pid in pids:
            process = os.pidfd_open(pid)
            ends.callback(os.close, process)
            signal.pidfd_send_signal(process, signal.SIGSTOP)
            ends.callback(_resume, process)
        yield


def _resume(process: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGCONT)


def last_lines(log: Path, count: int = LOG_LINES_SHOWN) -> str:
    """The end of a log file, for an error message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def reserve_port() -> socket.socket:
    """A free TCP port on 127.0.0.1, held until the socket is closed; `getsockname()[1]` is its number.

    The kernel chooses the port and gives it to no other socket while it is held. Only a server of the same user that
    listens with SO_REUSEPORT can use it, so the port stays reserved also while that server is down.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Lock a folder so that no other process starts anything in it; LabError if it is locked already."""
    folder.mkdir(parents=True, exist_ok=True)
    with _owner_file(folder).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"{folder} is in use by process {owner_of(folder)}.") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {_start_time(os.getpid())}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def owner_of(folder: Path) -> int | None:
    """The running process that has locked the folder, or None."""
    try:
        pid, start_time = _owner_file(folder).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == start_time else None


def _owner_file(folder: Path) -> Path:
    return folder / "owner.pid"


def _start_time(pid: int) -> str | None:
    """When a running process started, in clock ticks since boot: it shows whether a process id was reused."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]


def children_of(parent: int) -> list[int]:
    """The process ids of a process's children.

    /proc/PID/task/PID/children would be shorter, but it can skip a child when the one before it ends during the read.
    """
    children = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            _state, ppid, *_ = (process / "stat").read_text().rpartition(")")[2].split()
            if int(ppid) == parent:
                children.append(int(process.name))
    return children


def start_owner(folder: Path, command: Sequence[str]) -> None:
    """Run `command` in the background as the owner of a folder; return when it has printed that it is ready.

    It must be a program that calls `sole_owner` and `own_until_asked`. Does nothing if the folder has an owner.
    LabError with its standard error if it ends first.
    """
    if owner_of(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "owner.log"
    with log.open("wb") as errors:
        owner = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            start_new_session=True,
        )
    assert owner.stdout  # noqa: S101 - a pipe was asked for
    try:
        with owner.stdout as output:
            ready = output.readline()
    except KeyboardInterrupt:
        owner.terminate()
        owner.wait()
        raise
    if not ready:
        owner.wait()
        raise LabError(last_lines(log).removeprefix("Error: "))


def own_until_asked() -> None:
    """Print on standard output that everything is ready, then wait for Ctrl-C, or SIGTERM within `terminating`."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    # A signal that comes just before the read would be seen only after it; the byte ends the read.
    signal.set_wakeup_fd(wake)
    print("ready", flush=True)
    os.read(woken, 1)


@contextmanager
def terminating() -> Iterator[None]:
    """Make SIGTERM an orderly exit, like Ctrl-C, so that everything that was started is stopped."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_owner(folder: Path, *, timeout_s: float = 60) -> bool:
    """Ask the owner of a folder to stop everything that it runs and to end; False if there is no owner.

    Returns when the owner has ended; LabError if it does not end in time.
    """
    pid = owner_of(folder)
    if pid is None:
        return False
    try:
        owner = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(owner, signal.SIGTERM)
        if not select.select([owner], [], [], timeout_s)[0]:
            raise LabError(f"Process {pid}, which owns {folder}, did not end within {timeout_s:g} s.")
    finally:
        os.close(owner)
    return True
