"""A separate libvirtd process on this machine; `lab.libvirtd` defines domains on it.

It is the real libvirtd in isolation: its files are in one folder, it sees neither the machine's libvirt, D-Bus, KVM nor
networks, and nothing that it starts outlives its owner.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import NAMESPACE_URL, uuid5

import libvirt

from lab import LabError
from lab.guest_image import guest_image
from lab.processes import children_of, last_lines, sole_owner

SUPERVISOR = Path(__file__).with_name("subreaper.py")
DAEMON = Path("/usr/sbin/libvirtd")
QEMU_DRIVER = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so")
EMULATOR = Path("/usr/bin/qemu-system-i386")
START_LIMIT_S = 60
STOP_LIMIT_S = 30
POLL_INTERVAL_S = 0.01
# An empty /run hides the machine's D-Bus and systemd, with which libvirt would register each guest as a machine.
HIDE_RUN = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
NO_BUS = "unix:path=/nonexistent"
LONGEST_SOCKET_PATH = 107
# Below the folder of a session libvirtd: QEMU's monitor socket, with the id and 20 characters of the domain's name.
LONGEST_SESSION_SOCKET = "config/libvirt/qemu/lib/domain-1234-12345678901234567890/monitor.sock"

QEMU_CONF = """\
security_driver = "none"
# Each of these would do more to the machine than run QEMU, or needs a service that does not run here.
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
remember_owner = 0
migration_port_min = {first_port}
migration_port_max = {last_port}
"""
MIGRATION_PORTS, FIRST_MIGRATION_PORT, MIGRATION_RANGES = 16, 20000, 500
"""Each libvirtd has its own range of ports.

libvirt only tries whether a port is free before QEMU listens on it, so two libvirtds that migrate at the same moment
would choose the same port. The kernel gives none of these ports to a client.
"""

LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0777"
max_clients = 500
host_uuid = "{host_uuid}"
"""
LOG = 'log_outputs = "3:stderr"\n'
LOG_CALLS = """\
log_filters = "1:libvirt.domain"
log_outputs = "3:stderr 1:file:{log}"
"""


class Daemon:
    """libvirtd in a folder; use it as a context manager.

    For root it is a system libvirtd in its own mount namespace, or, with `user`, a session libvirtd of that user. For
    other users it is a session libvirtd. `stop` ends libvirtd and all guests and keeps the folder; the end of the
    process that started it, for any reason, does the same. With `logged`, `calls_log` has one line for every call about
    a domain, written when libvirtd begins the call.
    """

    def __init__(self, folder: Path, user: str | None = None, *, logged: bool = False, bus: str = NO_BUS) -> None:
        """`bus` is the address of the D-Bus on which a system libvirtd finds polkit."""
        if user is None and os.geteuid() != 0:
            user = pwd.getpwuid(os.geteuid()).pw_name
        self.folder = folder.resolve()
        self.user = user
        self.logged = logged
        self.bus = bus
        self.calls_log = self.folder / "calls.log"
        self.socket = self.folder / ("run/libvirt/libvirt-sock" if user else "run/libvirt-sock")
        self.uri = f"qemu+unix:///{'session' if user else 'system'}?socket={self.socket}"
        self.test_uri = self.test_uri_of("/default")
        self.pid = 0
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._holds = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def test_uri_of(self, node: Path | str) -> str:
        """The URI of libvirt's test (mock) driver in this libvirtd; its state is lost when the last connection closes.

        `node` is a node XML file, which can define domains in any state, or `/default`.
        """
        return f"test+unix://{node}?socket={self.socket}"

    def start(self) -> None:
        """Start libvirtd, unless it runs, and return when it answers; libvirtd takes over the guests that still run.

        LabError with the end of its log if it does not become ready.
        """
        if self._supervisor is None:
            self._prepare()
        try:
            self.pid = self._seen_from_here(int(self._tell("start")))
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End libvirtd and all guests immediately, also when libvirtd is dead or paused; the folder remains."""
        if self._supervisor is not None:
            # The supervisor ends everything when its standard input ends.
            self._supervisor.communicate(timeout=STOP_LIMIT_S)
            self._supervisor = None
        self._holds.close()

    def kill(self) -> None:
        """Kill libvirtd with SIGKILL, like a crash; its guests keep running. `start` starts it again."""
        self._tell("kill")

    def halt(self) -> None:
        """Stop only libvirtd, gracefully; its guests keep running. `start` starts it again."""
        self._tell("stop")

    def restart(self) -> None:
        """Restart libvirtd gracefully, like an upgrade; its guests keep running."""
        self.halt()
        self.start()

    def pause(self) -> None:
        """Make libvirtd hang (SIGSTOP): the process exists and does not answer."""
        if self._supervisor is None:  # process id 0 would stop this process group
            raise LabError("libvirtd was not started.")
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue libvirtd after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A short-lived connection to the QEMU driver (libvirt.virConnect)."""
        connection = libvirt.open(self.uri)
        try:
            yield connection
        finally:
            connection.close()

    def virsh(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run virsh on this libvirtd; CalledProcessError with its output if it fails and `check` is set."""
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *args], capture_output=True, text=True, check=False)
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done

    def qemu_pid(self, name: str) -> int | None:
        """The process id of a domain's QEMU, or None; works without libvirtd."""
        for pid in self._orphans():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            if any(word.startswith(f"guest={name},".encode()) for word in words):
                return pid
        return None

    def orphans(self) -> list[int]:
        """The children of the supervisor: libvirtd, and the orphans that libvirtd left, QEMUs among them.

        Cheap, for frequent calls: a process might be missing from one answer while another process ends.
        """
        try:
            return [int(pid) for pid in Path(f"/proc/{self._reaper}/task/{self._reaper}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError, LabError):  # its end
            return []

    def run_inside(self, *command: str) -> None:
        """Run a command in the mount namespace of a system libvirtd."""
        if self.user or self._supervisor is None:
            raise LabError("Only a system libvirtd that runs has mounts of its own: start one as root.")
        subprocess.run(["nsenter", "--mount", f"--target={self._reaper}", *command], check=True)

    @property
    def guests(self) -> Path:
        """The folder of the guests' files, as seen from outside."""
        return self.folder / ("guests" if self.user else "lib/guests")

    @property
    def guests_inside(self) -> Path:
        """The path of the same folder for libvirtd and QEMU: QEMU's user has no access to the path outside."""
        return self.guests if self.user else Path("/var/lib/libvirt/guests")

    def _prepare(self) -> None:
        """Lock the folder, write libvirtd's configuration there, and start the supervisor."""
        if missing := [str(path) for path in (DAEMON, QEMU_DRIVER, EMULATOR) if not path.exists()]:
            raise LabError(f"{', '.join(missing)} not found: run `make setup`.")
        self._check_folder()
        self._holds.enter_context(sole_owner(self.folder))
        try:
            self._lay_out()
            self._supervisor = self._start_supervisor()
        except BaseException:
            self._holds.close()
            raise

    def _check_folder(self) -> None:
        if not self.user and self.folder.is_relative_to("/run"):
            raise LabError(
                f"{self.folder} is below /run, which a system libvirtd of the lab does not see: take another."
            )
        longest = len(str(self.folder / LONGEST_SESSION_SOCKET if self.user else self.socket))
        if longest > LONGEST_SOCKET_PATH:
            excess = longest - LONGEST_SOCKET_PATH
            raise LabError(f"{self.folder} is {excess} characters too long for the sockets in it: take a shorter path.")

    def _lay_out(self) -> None:
        # As after a reboot: with the old state files libvirtd would kill the processes that now have those process ids.
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        config = self.folder / ("config/libvirt" if self.user else "etc")
        folders = [config, self.socket.parent, self.guests, self.folder / "cache", self.folder / "drivers"]
        if not self.user:
            folders += [self.folder / "log", self.folder / "lib"]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)  # independent of the umask: QEMU runs as another user
        first = self._first_migration_port()
        (config / "qemu.conf").write_text(QEMU_CONF.format(first_port=first, last_port=first + MIGRATION_PORTS - 1))
        log = LOG_CALLS.format(log=self.calls_log) if self.logged else LOG
        host_uuid = uuid5(NAMESPACE_URL, str(self.folder))
        (config / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=host_uuid) + log)
        (self.folder / "no-kvm").touch(0o600)
        # The drivers of networks, storage and devices would inspect the machine and change its packet filter.
        driver = self.folder / "drivers" / QEMU_DRIVER.name
        driver.unlink(missing_ok=True)
        driver.symlink_to(QEMU_DRIVER)
        image = self.guests / "guest.img"
        subprocess.run(["cp", "--sparse=always", guest_image(), image], check=True)
        if self.user and os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{self.user}:", self.folder], check=True)

    def _first_migration_port(self) -> int:
        """Reserve a range of ports until `stop`, by the name of a socket, and return the first port."""
        for number in range(MIGRATION_RANGES):
            held = socket.socket(socket.AF_UNIX)
            try:
                held.bind(f"\0virtsync-lab-migration-ports-{number}")
            except OSError:
                held.close()
                continue
            self._holds.enter_context(held)
            return FIRST_MIGRATION_PORT + number * MIGRATION_PORTS
        raise LabError(f"{MIGRATION_RANGES} libvirtds of the lab run already.")

    def _start_supervisor(self) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LIBVIRT_DRIVER_DIR": str(self.folder / "drivers"),
            "DBUS_SYSTEM_BUS_ADDRESS": self.bus,
        }
        if self.user:
            homes = {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config"}
            homes |= {"XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state"}
            environment |= {name: str(self.folder / home) for name, home in homes.items()}
        command: list[str | Path] = [] if self.user else [*self._enter()]
        command += [sys.executable, "-I", "-S", SUPERVISOR, self.folder, self.user or ""]
        config = self.folder / ("config/libvirt" if self.user else "etc") / "libvirtd.conf"
        with (self.folder / "libvirtd.out").open("ab") as log:
            return subprocess.Popen(
                [*command, DAEMON, "--config", config],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )

    def _enter(self) -> list[str]:
        """The command prefix that runs a command in the namespaces of a system libvirtd."""
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", HIDE_RUN, "sh"]

    @property
    def _reaper(self) -> int:
        """The process that becomes the parent of all orphans of libvirtd."""
        if self._supervisor is None:
            raise LabError("libvirtd was not started.")
        return self._supervisor.pid

    def _seen_from_here(self, pid: int) -> int:
        """The process id here, for a process id in the supervisor's namespace."""
        return pid

    def _tell(self, word: str) -> str:
        """Send a command to the supervisor; its answer."""
        if self._supervisor is None:
            raise LabError("libvirtd was not started.")
        assert self._supervisor.stdin  # noqa: S101 - pipes were asked for
        assert self._supervisor.stdout  # noqa: S101
        try:
            self._supervisor.stdin.write(f"{word}\n".encode())
            self._supervisor.stdin.flush()
        except BrokenPipeError:
            raise self._failure("has lost its supervisor") from None
        answer = self._supervisor.stdout.readline()
        if not answer:
            raise self._failure("has lost its supervisor")
        return answer.decode().strip()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self._listens():
            if not Path(f"/proc/{self.pid}").exists():
                raise self._failure("ended before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {START_LIMIT_S} s")
            time.sleep(POLL_INTERVAL_S)
        try:
            # libvirtd listens before its drivers are ready, and answers when they are ready.
            with self.connection():
                pass
        except libvirt.libvirtError as error:
            raise self._failure(f"does not answer ({error})") from error

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
            return True

    def _orphans(self) -> list[int]:
        """The children of the supervisor: libvirtd, and the orphans that libvirtd left; none is missing."""
        return children_of(self._reaper) if self._supervisor else []

    def _failure(self, what: str) -> LabError:
        log = self.folder / "libvirtd.out"
        return LabError(f"libvirtd {what}; the end of {log}:\n{last_lines(log)}")
