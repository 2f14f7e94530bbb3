"""The guest does as it is told, and libvirt tells of it as it does of any guest."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lab import LabError
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.trace import Trace, event_loop

BOOT = ["RESUMED/UNPAUSED", "STARTED/BOOTED"]


Start = Callable[..., tuple[Guest, Trace]]


@pytest.fixture(scope="module", autouse=True)
def _event_loop() -> Iterator[None]:
    with event_loop():
        yield


@pytest.fixture
def start(libvirtd: Libvirtd, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a guest named after the test, and record its events from its boot on."""
    with libvirtd.connection() as connection, ExitStack() as started:

        def define_and_start(**options: Any) -> tuple[Guest, Trace]:
            guest = libvirtd.define(request.function.__name__.replace("_", "-"), **options)
            started.callback(guest.remove)
            trace = Trace(connection, guest)
            started.callback(trace.stop)
            guest.start()
            assert trace.until("STARTED/BOOTED") == BOOT
            return guest, trace

        yield define_and_start


def test_powers_off(start: Start) -> None:
    guest, trace = start()
    guest.poweroff()
    assert trace.until("STOPPED/SHUTDOWN") == ["SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"]
    assert trace.state == "SHUTOFF/SHUTDOWN"


def test_obeys_the_power_button(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start()
    libvirtd.virsh("shutdown", guest.name, "--mode=acpi")
    assert trace.until("STOPPED/SHUTDOWN") == ["SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"]


def test_ignores_the_power_button_until_it_boots_again(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start()
    guest.ignore_power_button()
    libvirtd.virsh("shutdown", guest.name, "--mode=acpi")
    # It looks at the button before each answer, so with the second one it has surely seen it pressed.
    guest.wait_until_booted()
    guest.wait_until_booted()
    assert trace.state == "RUNNING/BOOTED"
    guest.reset()
    guest.wait_until_booted()
    libvirtd.virsh("shutdown", guest.name, "--mode=acpi")
    assert "SHUTDOWN/GUEST" in trace.until("STOPPED/SHUTDOWN")


@pytest.mark.parametrize("act", [Guest.reset, Guest.triple_fault])
def test_reboots(start: Start, act: Callable[[Guest], None]) -> None:
    guest, trace = start()
    qemu = guest.qemu_pid
    act(guest)
    assert trace.until("REBOOT") == ["REBOOT"]
    guest.wait_until_booted()
    assert trace.state == "RUNNING/BOOTED"
    assert guest.qemu_pid == qemu


def of_each_libvirt(events: list[str]) -> list[str]:
    """What every libvirt tells of a panic or a save: without the pause, which it does not tell of in each run, and
    without the end of QEMU, which libvirt 11 also tells of when it has ended QEMU itself.
    """
    return [event for event in events if event not in {"SUSPENDED/PAUSED", "SHUTDOWN/HOST"}]


def test_panics_and_is_destroyed(start: Start) -> None:
    guest, trace = start(on_crash="destroy")
    guest.panic()
    assert of_each_libvirt(trace.until("STOPPED/CRASHED")) == ["CRASHED/PANICKED", "STOPPED/CRASHED"]
    assert trace.state == "SHUTOFF/CRASHED"


def test_panics_and_is_preserved(start: Start) -> None:
    guest, trace = start(on_crash="preserve")
    guest.panic()
    assert of_each_libvirt(trace.until("CRASHED/PANICKED")) == ["CRASHED/PANICKED"]
    assert trace.state == "CRASHED/PANICKED"
    assert guest.qemu_pid


def test_panics_and_is_restarted(start: Start) -> None:
    guest, trace = start(on_crash="restart")
    guest.panic()
    assert of_each_libvirt(trace.until("RESUMED/UNPAUSED")) == ["CRASHED/PANICKED", "REBOOT", "RESUMED/UNPAUSED"]
    guest.wait_until_booted()
    assert trace.state == "RUNNING/CRASHED"


def test_panics_with_a_crash_kernel_and_runs_on(start: Start) -> None:
    guest, trace = start()
    guest.panic_and_dump()
    assert trace.until("CRASHED/CRASHLOADED") == ["CRASHED/CRASHLOADED"]
    guest.wait_until_booted()
    assert trace.state == "RUNNING/BOOTED"


def test_suspends_to_ram_and_wakes_up(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start()
    guest.suspend_to_ram()
    assert trace.until("PMSUSPENDED/MEMORY") == ["PMSUSPENDED/MEMORY"]
    assert trace.state == "PMSUSPENDED/UNKNOWN"
    libvirtd.virsh("dompmwakeup", guest.name)
    assert trace.until("STARTED/WAKEUP") == ["STARTED/WAKEUP"]
    guest.wait_until_booted()
    assert trace.state == "RUNNING/WAKEUP"


def test_suspends_to_disk(start: Start) -> None:
    guest, trace = start()
    guest.suspend_to_disk()
    assert trace.until("STOPPED/SHUTDOWN") == ["PMSUSPENDED/DISK", "SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"]


def test_is_saved_and_restored(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start()
    libvirtd.virsh("managedsave", guest.name)
    assert of_each_libvirt(trace.until("STOPPED/SAVED")) == ["STOPPED/SAVED"]
    assert trace.state == "SHUTOFF/SAVED"
    libvirtd.virsh("start", guest.name)
    restored = of_each_libvirt(trace.until("RESUMED/FROM_SNAPSHOT"))
    assert restored == ["STARTED/RESTORED", "RESUMED/FROM_SNAPSHOT"]
    guest.wait_until_booted()
    assert trace.state == "RUNNING/RESTORED"


def test_is_paused_while_its_disk_is_full(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start(disk=True)
    guest.fill_disk()
    assert trace.until("SUSPENDED/IOERROR") == ["SUSPENDED/IOERROR"]
    assert trace.state == "PAUSED/IOERROR"
    libvirtd.virsh("resume", guest.name)
    assert trace.until("SUSPENDED/IOERROR") == ["RESUMED/UNPAUSED", "SUSPENDED/IOERROR"]
    guest.free_disk()
    libvirtd.virsh("resume", guest.name)
    # It answers when all is written, so it was not paused once more.
    guest.wait_until_booted()
    assert trace.until("RESUMED/UNPAUSED") == ["RESUMED/UNPAUSED"]
    assert trace.state == "RUNNING/UNPAUSED"


def test_hangs_until_it_is_reset(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start()
    guest.hang()
    libvirtd.virsh("shutdown", guest.name, "--mode=acpi")
    with pytest.raises(LabError, match=r"has not booted within 0\.5 s"):
        guest.wait_until_booted(hang_limit_s=0.5)
    assert trace.state == "RUNNING/BOOTED"
    libvirtd.virsh("reset", guest.name)
    guest.wait_until_booted()


def test_is_killed(start: Start) -> None:
    guest, trace = start()
    guest.kill()
    assert trace.until("STOPPED/FAILED") == ["STOPPED/FAILED"]
    assert trace.state == "SHUTOFF/CRASHED"
    with pytest.raises(LabError, match="has no QEMU"):
        guest.poweroff()


def test_takes_commands_from_the_keyboard_too(start: Start, libvirtd: Libvirtd) -> None:
    guest, trace = start()
    libvirtd.virsh("send-key", guest.name, "KEY_P")
    assert trace.until("STOPPED/SHUTDOWN") == ["SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"]


def test_is_removed_whatever_it_is_at(libvirtd: Libvirtd) -> None:
    saved, running = libvirtd.define("removed-saved"), libvirtd.define("removed-running")
    saved.start()
    running.start()
    libvirtd.virsh("managedsave", saved.name)
    saved.remove()
    running.remove()
    assert "removed" not in libvirtd.virsh("list", "--all", "--name").stdout


def test_a_domain_defined_anew_is_the_same_domain(libvirtd: Libvirtd) -> None:
    first = libvirtd.define("defined-anew")
    second = libvirtd.define("defined-anew", on_crash="preserve")
    assert second.uuid == first.uuid
    assert "<on_crash>preserve</on_crash>" in libvirtd.virsh("dumpxml", second.name).stdout
    second.remove()


def test_a_failed_virsh_says_why(libvirtd: Libvirtd) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        libvirtd.virsh("start", "no-such-domain")
    assert "failed to get domain 'no-such-domain'" in failure.value.__notes__[0]
