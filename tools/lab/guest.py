"""A domain that runs the tiny guest (tools/guest/guest.S), which does what a test asks of it."""

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from lab import LabError
from lab.daemon import EMULATOR, Daemon

DISK_BYTES = 128 * 512
ROOM_BYTES = 16 * 1024
HANG_LIMIT_S = 60
POLL_INTERVAL_S = 0.02
ANSWER_LIMIT_S = 0.1  # the guest polls its serial port 18 times a second

# For an x86_64 guest libvirt queries QEMU for each CPU feature, which makes the start take three times as long.
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>4</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='i686' machine='pc'>hvm</type>
    <boot dev='fd'/>
  </os>
  <features><acpi/></features>
  <pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='yes'/></pm>
  <on_poweroff>{on_poweroff}</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>{on_crash}</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='floppy'>
      <driver name='qemu' type='raw'/>
      <source file='{folder}/guest.img'/>
      <target dev='fda'/>
      <readonly/>
    </disk>{disk}
    <serial type='unix'><source mode='bind' path='{folder}/{name}.serial'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <panic model='isa'/>
  </devices>
</domain>
"""

DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' error_policy='enospace'/>
      <source file='{folder}/{name}.disk/disk.img'/>
      <target dev='hda' bus='ide'/>
    </disk>"""


# Only the freezer of cgroup v1 delays SIGKILL, as a process that waits for dead storage does.
FREEZE = """
set -e
mkdir -p /run/freezer
mountpoint -q /run/freezer || mount -t cgroup -o freezer none /run/freezer
mkdir "/run/freezer/virtsync-$0"
echo "$0" >"/run/freezer/virtsync-$0/cgroup.procs"
echo FROZEN >"/run/freezer/virtsync-$0/freezer.state"
"""
THAW = """
cd "/run/freezer/virtsync-$0"
echo THAWED >freezer.state
echo "$0" 2>/dev/null >../cgroup.procs
until rmdir "$PWD" 2>/dev/null; do sleep 0.01; done
"""


class Guest:
    """A domain that runs the tiny guest.

    The guest has begun each action when the call returns. Commands go through its serial port, so they work while
    libvirtd is dead or hangs.
    """

    def __init__(self, libvirtd: Daemon, name: str, uuid: UUID, *, has_disk: bool = False) -> None:
        self.libvirtd = libvirtd
        self.has_disk = has_disk
        self.name = name
        self.uuid = uuid

    def domain_xml(self, *, disk: bool, on_poweroff: str, on_crash: str) -> str:
        """The domain's definition: the fastest to start that has all devices that the guest uses."""
        folder = self.libvirtd.guests_inside
        return DOMAIN.format(
            name=self.name,
            uuid=self.uuid,
            on_poweroff=on_poweroff,
            on_crash=on_crash,
            emulator=EMULATOR,
            folder=folder,
            disk=DISK.format(folder=folder, name=self.name) if disk else "",
        )

    def remove(self) -> None:
        """End QEMU in any state, and undefine the domain."""
        self._end()
        try:
            self.libvirtd.virsh("undefine", self.name, "--managed-save")
        finally:
            # If the domain was started again in between, it is transient now and ends with its QEMU.
            self._end()

    def _end(self) -> None:
        if self.libvirtd.qemu_pid(self.name):
            self.kill()

    def start(self) -> None:
        """Start the domain, and return when the guest has booted."""
        self.libvirtd.virsh("start", self.name)
        self.wait_until_booted()

    def wait_until_booted(self, *, hang_limit_s: float = HANG_LIMIT_S) -> None:
        """Wait until the guest answers; LabError if it does not answer within the time."""
        deadline = time.monotonic() + hang_limit_s
        while not self._answers(b" ", timeout_s=ANSWER_LIMIT_S):
            if time.monotonic() > deadline:
                raise LabError(f"The guest {self.name} has not booted within {hang_limit_s:g} s.")
            time.sleep(POLL_INTERVAL_S)

    def poweroff(self) -> None:
        """Power off from inside."""
        self._tell("p")

    def reset(self) -> None:
        """Reset from inside."""
        self._tell("r")

    def triple_fault(self) -> None:
        """Reset by a triple fault."""
        self._tell("t")

    def panic(self) -> None:
        """Panic like a kernel, and report it to the host."""
        self._tell("c")

    def panic_and_dump(self) -> None:
        """Panic, and report to the host that a crash kernel will handle it."""
        self._tell("l")

    def suspend_to_ram(self) -> None:
        """Sleep (ACPI S3); `virsh dompmwakeup` boots the guest again."""
        self._tell("s")

    def suspend_to_disk(self) -> None:
        """Power off as after a hibernation (ACPI S4)."""
        self._tell("d")

    def ignore_power_button(self) -> None:
        """Ignore ACPI shutdown until the next boot."""
        self._tell("i")

    def hang(self) -> None:
        """Stop responding, also to ACPI shutdown."""
        self._tell("h")

    def fill_disk(self) -> None:
        """Write the disk to its end; QEMU pauses the guest when the filesystem is full."""
        self._tell("w")

    def free_disk(self) -> None:
        """Enlarge the filesystem so that the whole disk fits."""
        self.libvirtd.run_inside("mount", "-o", f"remount,size={2 * DISK_BYTES}", self._disk_folder)

    def make_disk(self) -> None:
        """Make a sparse disk on a separate filesystem that is smaller than the disk."""
        (self.libvirtd.guests / f"{self.name}.disk").mkdir(exist_ok=True)
        folder = self._disk_folder
        self.libvirtd.run_inside("mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES},mode=755", "tmpfs", folder)
        self.libvirtd.run_inside("truncate", f"--size={DISK_BYTES}", f"{folder}/disk.img")

    @property
    def _disk_folder(self) -> str:
        return str(self.libvirtd.guests_inside / f"{self.name}.disk")

    @property
    def qemu_pid(self) -> int:
        """The process id of QEMU; LabError if the domain is off."""
        pid = self.libvirtd.qemu_pid(self.name)
        if pid is None:
            raise LabError(f"The domain {self.name} has no QEMU.")
        return pid

    def kill(self) -> None:
        """Kill QEMU with SIGKILL, and return when it has ended."""
        qemu = os.pidfd_open(self.qemu_pid)
        try:
            signal.pidfd_send_signal(qemu, signal.SIGKILL)
            select.select([qemu], [], [])
        finally:
            os.close(qemu)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze QEMU; if it is killed during that time, it ends only after the freeze. Needs root."""
        pid = str(self.qemu_pid)
        self.libvirtd.run_inside("sh", "-c", FREEZE, pid)
        try:
            yield
        finally:
            self.libvirtd.run_inside("sh", "-c", THAW, pid)

    def whisper(self, letter: str) -> bool:
        """Send a one-letter command of guest.S once; whether the guest took it."""
        return self._answers(letter.encode(), timeout_s=ANSWER_LIMIT_S)

    def _tell(self, letter: str) -> None:
        if not self._answers(letter.encode(), timeout_s=HANG_LIMIT_S):
            raise LabError(
                f"The guest {self.name} (QEMU {self.qemu_pid}) did not take {letter!r} within {HANG_LIMIT_S} s."
            )

    def _answers(self, letter: bytes, *, timeout_s: float) -> bool:
        """Send a letter to the guest's serial port; whether the guest echoes it in time."""
        # A path through a folder's descriptor is short enough for a socket, also when the folder's path is long.
        folder = os.open(self.libvirtd.guests, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as serial:
                serial.settimeout(timeout_s)
                serial.connect(f"/proc/self/fd/{folder}/{self.name}.serial")
                serial.sendall(letter)
                return letter in iter(lambda: serial.recv(1), b"")
        except OSError:  # off, or not booted yet
            return False
        finally:
            os.close(folder)
