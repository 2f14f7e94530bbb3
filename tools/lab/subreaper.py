"""Runs one libvirtd for its owner, and ends libvirtd and every QEMU when the owner ends for any reason.

It is a separate program that reads one command per line on standard input: `start` (the answer is libvirtd's process
id), `stop` or `kill` libvirtd (it answers when libvirtd has ended; the QEMUs keep running). The end of standard input,
which also comes when the owner is killed with SIGKILL, ends everything.

It is the parent of all orphans below it (PR_SET_CHILD_SUBREAPER), for two reasons. QEMU daemonizes, so the parent shows
which QEMUs are ours. And libvirt considers a QEMU alive until it is reaped: if PID 1 reaps only occasionally, libvirt
notices each stop of a domain seconds late.
"""

import ctypes
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
STOP_LIMIT_S = 10

# The paths that a libvirtd of root always uses, and our folders that are mounted there.
SYSTEM_FOLDERS = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}


class Supervisor:
    """One libvirtd, and its orphans."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start libvirtd, unless it runs; its process id."""
        if self.daemon is None or self.daemon.poll() is not None:
            self.daemon = subprocess.Popen(
                # If this process is killed with SIGKILL, at least libvirtd ends too.
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                process_group=0,
            )
        return str(self.daemon.pid)

    def stop(self) -> str:
        """Ask libvirtd to end; kill it if it does not end."""
        if self.daemon is not None:
            self.daemon.terminate()
            try:
                self.daemon.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                return self.kill()
        return "stopped"

    def kill(self) -> str:
        """Kill libvirtd, also when it is paused."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        return "killed"

    def reap(self) -> None:
        """Reap every child that has ended."""
        if self.daemon is not None:
            self.daemon.poll()
        while children() and os.waitpid(-1, os.WNOHANG)[0]:
            pass


def children() -> list[int]:
    """The process ids of the children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def end_all() -> None:
    """Kill every child, and the orphans that follow, and return when there is none."""
    while pids := children():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        os.wait()


def forget_runtime_state() -> None:
    """Remove what a reboot would remove: sockets, and libvirt's state files (which process runs which domain)."""
    shutil.rmtree("run")
    for path in Path().rglob("*"):
        if path.is_socket():
            path.unlink()


def lay_out_system() -> None:
    """Mount our folders at the paths of a system libvirtd, in this process's own mount namespace."""

    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)

    for ours, theirs in SYSTEM_FOLDERS.items():
        Path(theirs).mkdir(parents=True, exist_ok=True)
        mount("--bind", ours, theirs)
    # If /dev/kvm exists but does not work, libvirt probes QEMU again at every use: defining a domain takes 32 s.
    if Path("/dev/kvm").exists():
        mount("--bind", "no-kvm", "/dev/kvm")


def become(user: str) -> None:
    """Change from root to `user`."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def serve(supervisor: Supervisor) -> None:
    """Execute the owner's commands until the owner ends, and reap children."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    commands = {b"start\n": supervisor.start, b"stop\n": supervisor.stop, b"kill\n": supervisor.kill}
    while True:
        ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            supervisor.reap()
        if sys.stdin.fileno() in ready:
            word = os.read(sys.stdin.fileno(), 4096)
            if not word:
                return
            print(commands[word](), flush=True)


def main() -> None:
    """Run as `subreaper.py FOLDER USER LIBVIRTD ARGUMENTS...`; USER is empty for a system libvirtd."""
    folder, user, *command = sys.argv[1:]
    os.chdir(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    if not user:
        lay_out_system()
    elif os.geteuid() == 0:
        become(user)
    try:
        serve(Supervisor(command))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()
        forget_runtime_state()


if __name__ == "__main__":
    main()
