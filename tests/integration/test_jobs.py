"""A libvirt job owns a domain for a while: a VM that runs is left in sync, and what is due waits until it is over.

What libvirtd was asked for is read from its own record.
"""

import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.judge import asked
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import HANG_LIMIT_S, World, is_off, power_of, ready_of, reason_of, runs

BACKUP = """\
<domainbackup mode='pull'>
  <server transport='unix' socket='{folder}/nbd'/>
  <disks><disk name='hda' backup='yes' type='file'><scratch file='{folder}/scratch'/></disk></disks>
</domainbackup>
"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """One that keeps a record of what it is asked."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder), logged=True) as running:
        yield running


@contextmanager
def backup(guest: Guest, folder: Path) -> Iterator[None]:
    """A backup that somebody reads from a running guest, for as long as the block lasts."""
    libvirtd, name = guest.libvirtd, f"{guest.name}.backup"
    (libvirtd.guests / name).mkdir()
    (libvirtd.guests / name).chmod(0o777)  # QEMU makes its socket there, as another user
    xml = folder / "backup.xml"
    xml.write_text(BACKUP.format(folder=libvirtd.guests_inside / name))
    libvirtd.virsh("backup-begin", guest.name, str(xml))
    try:
        yield
    finally:
        libvirtd.virsh("domjobabort", guest.name, check=False)


@contextmanager
def written_slowly(guest: Guest, folder: Path, *command: str) -> Iterator[None]:
    """`virsh save` or `virsh dump` to a reader who takes nothing before the block ends, and then all."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    # Open before libvirt opens its end, which would wait for a reader with the domain locked.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    verb, *options = command
    virsh = subprocess.Popen(["virsh", "-q", "-c", guest.libvirtd.uri, verb, guest.name, pipe, *options])
    try:
        assert select.select([reader], [], [], HANG_LIMIT_S)[0], "nothing is written"
        yield
        os.set_blocking(reader, True)
        while os.read(reader, 1 << 16):
            pass
        assert virsh.wait() == 0
    finally:
        os.close(reader)  # ends the job, if it has not ended
        virsh.wait()


def running(world: World, *, acpi_resend: str = "1h", **shutdown: str | int) -> Guest:
    """A VM that runs as its object says, looked after by an agent."""
    guest = world.start(disk=True)
    world.apply(guest, powerState="Running", restartPolicy="Always", shutdown=shutdown)
    world.start_agent(acpi_resend=acpi_resend, force_wait="1s")
    world.until(guest, runs, "running")
    return guest


def looked_at_again(world: World, guest: Guest, reason: str) -> None:
    """The agent looks at it once more, for its spec has changed in what matters to nobody now, and says the same."""
    policies = {"Always": "Never", "Never": "Always"}
    world.patch(guest, restartPolicy=policies[world.get(guest)["spec"]["restartPolicy"]])
    world.until_ready(guest, reason)


@pytest.mark.parametrize(("mode", "verb"), [("GracefulThenForce", "SHUTDOWN"), ("Force", "DESTROY")])
def test_job_running(world: World, libvirtd: Libvirtd, tmp_path: Path, mode: str, verb: str) -> None:
    guest = running(world, mode=mode)
    with backup(guest, tmp_path):
        looked_at_again(world, guest, "InSync")
        looked_at_again(world, guest, "InSync")
        world.patch(guest, powerState="Stopped")
        busy = world.until_ready(guest, "HypervisorBusy")
        assert power_of(busy) == "Running"
        looked_at_again(world, guest, "HypervisorBusy")
        looked_at_again(world, guest, "HypervisorBusy")
        assert world.get(guest)["status"]["operation"]["type"] == "Stop", "the wait for the job has its end on record"
        assert "libvirt job (backup)" in ready_of(world.get(guest))["message"]
        assert asked(libvirtd.calls_log, guest.uuid) == ["START"], "the test's own, and nothing since"
    world.until(guest, is_off, "off")
    world.until_acts(guest, f"{verb} done")
    assert asked(libvirtd.calls_log, guest.uuid) == ["START", verb]
    told = [reason for power, reason, _ in world.told(guest) if power == "Running"]
    assert told[: told.index("HypervisorBusy")] == ["InSync"]


def test_a_backup_that_nobody_ends_holds_up_a_stop_for_one_grace_period(
    world: World, libvirtd: Libvirtd, tmp_path: Path
) -> None:
    """B8: its tool has died. Before, the stop waited for ever, and nothing told so."""
    guest = running(world, acpi_resend="1s", gracePeriodSeconds=8)
    guest.ignore_power_button()
    with backup(guest, tmp_path):
        world.patch(guest, powerState="Stopped")
        world.until_ready(guest, "HypervisorBusy")
        assert asked(libvirtd.calls_log, guest.uuid) == ["START"]
        world.until(guest, is_off, "forced off beside the backup")
    calls = asked(libvirtd.calls_log, guest.uuid)
    assert (calls[:2], calls[-1]) == (["START", "SHUTDOWN"], "DESTROY")


def test_a_job_that_would_be_lost_is_not_stopped_beside(world: World, libvirtd: Libvirtd, tmp_path: Path) -> None:
    guest = running(world, acpi_resend="1s", gracePeriodSeconds=3)
    with written_slowly(guest, tmp_path, "dump", "--live"):
        world.until_ready(guest, "HypervisorBusy")
        world.patch(guest, powerState="Stopped")
        world.until_ready(guest, "ShutdownTimedOut")
        assert asked(libvirtd.calls_log, guest.uuid) == ["START"]
    world.until(guest, is_off, "off when the job has ended")


def test_job_that_saves(world: World, libvirtd: Libvirtd, tmp_path: Path) -> None:
    guest = running(world)
    with written_slowly(guest, tmp_path, "save"):
        saving = world.until_ready(guest, "HypervisorBusy")
        assert power_of(saving) == "Paused"
        assert saving["status"]["libvirt"] == {"state": "PAUSED", "reason": "SAVE"}
        looked_at_again(world, guest, "HypervisorBusy")
        world.patch(guest, powerState="Stopped")
        world.until_ready(guest, "HypervisorBusy")
    world.until(guest, is_off, "off, as wanted")
    assert asked(libvirtd.calls_log, guest.uuid) == ["START"]


@pytest.mark.parametrize("options", [("--live",), ("--live", "--memory-only")], ids=["live", "memory-only"])
def test_job_that_dumps(world: World, libvirtd: Libvirtd, tmp_path: Path, options: tuple[str, ...]) -> None:
    guest = running(world)
    run = world.run_id(guest)
    with written_slowly(guest, tmp_path, "dump", *options):
        dumping = world.until_ready(guest, "HypervisorBusy")
        assert power_of(dumping) == "Paused"
        looked_at_again(world, guest, "HypervisorBusy")
    world.until(guest, runs, "running again")
    assert reason_of(world.get(guest)) == "InSync"
    assert world.run_id(guest) == run
    assert asked(libvirtd.calls_log, guest.uuid) == ["START"]
