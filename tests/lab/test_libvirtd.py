"""The lab's libvirtd is real, kept apart from the machine, survives what tests do to it, and leaves nothing behind."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest

from lab import LabError
from lab.libvirtd import Libvirtd
from lab.processes import owner_of

HANG_LIMIT_S = 60
TOOLS = Path(__file__).parents[2] / "tools"
RUN = [sys.executable, "-m", "lab", "libvirtd"]
ENV = os.environ | {"PYTHONPATH": str(TOOLS)}
OTHER_USER = "nobody" if os.geteuid() == 0 else None
KINDS = {"system": None, "session": OTHER_USER}

# An owner that has every kind of thing to leave behind, if it left any.
OWNER = """
import os, signal, sys
from pathlib import Path
from lab.libvirtd import Libvirtd

with Libvirtd(Path(sys.argv[1]), user=sys.argv[2] or None) as libvirtd:
    libvirtd.define("left-running", disk=not libvirtd.user).start()
    stuck = libvirtd.define("left-stuck")
    stuck.start()
    os.kill(stuck.qemu_pid, signal.SIGSTOP)
    print("ready", flush=True)
    signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder short enough for the sockets of a session libvirtd, which another user may enter."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(params=KINDS)
def own_libvirtd(folder: Path, request: pytest.FixtureRequest) -> Iterator[Libvirtd]:
    """A libvirtd of either kind that the test may ill-treat."""
    with Libvirtd(folder, user=KINDS[request.param]) as libvirtd:
        yield libvirtd


def processes_of(folder: Path) -> set[int]:
    """All processes whose command line names a folder, or that see a mount from it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text() + (process / "mountinfo").read_text()
        except OSError:  # it has just ended
            continue
        if str(folder) in words and int(process.name) != os.getpid():
            found.add(int(process.name))
    return found


def wait_until_gone(pids: set[int]) -> None:
    """Return when every process ended; fail when one hangs."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([process], [], [], HANG_LIMIT_S)[0]
        os.close(process)
        assert ended, f"process {pid} still runs"


def sockets_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


def cgroups() -> set[Path]:
    return set(Path("/sys/fs/cgroup").rglob("*qemu*"))


def test_guests_outlive_a_killed_libvirtd_and_are_found_again(own_libvirtd: Libvirtd) -> None:
    guest = own_libvirtd.define("survivor")
    guest.start()
    qemu, before = guest.qemu_pid, own_libvirtd.pid
    own_libvirtd.kill()
    assert guest.qemu_pid == qemu
    guest.reset()  # a guest can be told things also now
    guest.wait_until_booted()
    own_libvirtd.start()
    assert own_libvirtd.pid != before
    assert own_libvirtd.virsh("domstate", "survivor").stdout.strip() == "running"
    assert guest.qemu_pid == qemu


def test_guests_outlive_a_restart(own_libvirtd: Libvirtd) -> None:
    guest = own_libvirtd.define("survivor")
    guest.start()
    qemu, before = guest.qemu_pid, own_libvirtd.pid
    own_libvirtd.restart()
    assert own_libvirtd.pid != before
    assert own_libvirtd.virsh("domstate", "survivor").stdout.strip() == "running"
    assert guest.qemu_pid == qemu


def test_a_paused_libvirtd_answers_nobody_until_it_is_resumed(own_libvirtd: Libvirtd) -> None:
    own_libvirtd.pause()
    with subprocess.Popen(["virsh", "-c", own_libvirtd.uri, "version"], stdout=subprocess.PIPE, text=True) as virsh:
        assert virsh.stdout
        # A slow machine cannot fail this: whether it was asked yet or not, it has not answered.
        assert not select.select([virsh.stdout], [], [], 0.5)[0]
        own_libvirtd.resume()
        assert "Running hypervisor: QEMU" in virsh.stdout.read()


def test_a_libvirtd_that_was_paused_can_be_killed(own_libvirtd: Libvirtd) -> None:
    own_libvirtd.pause()
    own_libvirtd.kill()
    own_libvirtd.start()
    own_libvirtd.virsh("version")


def test_a_session_libvirtd_and_its_guests_are_those_of_the_user(folder: Path) -> None:
    with Libvirtd(folder, user=OTHER_USER) as libvirtd:
        assert libvirtd.uri.startswith("qemu+unix:///session?socket=")
        guest = libvirtd.define("of-a-user")
        guest.start()
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in (libvirtd.pid, guest.qemu_pid)}
        assert owners == {folder.stat().st_uid}
        assert owners != {0}


def test_two_run_side_by_side_and_know_nothing_of_each_other(folder: Path) -> None:
    with Libvirtd(folder / "a") as one:
        with Libvirtd(folder / "b") as other:
            here, there = one.define("same-name"), other.define("same-name")
            here.start()
            there.start()
            assert here.qemu_pid != there.qemu_pid
            assert host_uuid(one) != host_uuid(other)
            there.poweroff()
        here.wait_until_booted()
        assert one.virsh("domstate", "same-name").stdout.strip() == "running"


def host_uuid(libvirtd: Libvirtd) -> str:
    with libvirtd.connection() as connection:
        return ElementTree.fromstring(connection.getCapabilities()).findtext("host/uuid") or ""  # noqa: S314 - libvirt's own


def test_the_mock_driver_is_shared_by_the_connections_to_one_libvirtd(own_libvirtd: Libvirtd) -> None:
    one, other = libvirt.open(own_libvirtd.test_uri), libvirt.open(own_libvirtd.test_uri)
    one.lookupByName("test").destroy()
    assert not other.lookupByName("test").isActive()
    one.close()
    other.close()


def test_the_mock_driver_takes_a_node_of_our_own(own_libvirtd: Libvirtd, folder: Path) -> None:
    node = folder / "node.xml"
    node.write_text(
        "<node><domain type='test'><name>ours</name><memory>4096</memory><os><type>hvm</type></os></domain></node>"
    )
    connection = libvirt.open(own_libvirtd.test_uri_of(node))
    assert [domain.name() for domain in connection.listAllDomains()] == ["ours"]
    connection.close()


def test_the_machine_sees_nothing_of_a_system_libvirtd(folder: Path) -> None:
    mounts, groups = Path("/proc/self/mountinfo").read_text(), cgroups()
    with Libvirtd(folder) as libvirtd:
        libvirtd.define("unseen", disk=True).start()
        assert Path("/proc/self/mountinfo").read_text() == mounts
        assert cgroups() == groups
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last_act", [Libvirtd.resume, Libvirtd.pause, Libvirtd.kill])
def test_the_end_of_the_block_leaves_nothing(folder: Path, kind: str, last_act: Callable[[Libvirtd], None]) -> None:
    with Libvirtd(folder, user=KINDS[kind]) as libvirtd:
        libvirtd.define("left").start()
        last_act(libvirtd)
        assert processes_of(folder) >= {libvirtd.qemu_pid("left")}
    assert processes_of(folder) == set()
    assert sockets_in(folder) == []
    with Libvirtd(folder, user=KINDS[kind]) as libvirtd:
        assert libvirtd.virsh("list", "--all", "--name").stdout.split() == ["left"]
        assert libvirtd.virsh("list", "--name").stdout.split() == []


def test_a_failure_in_the_block_leaves_nothing(folder: Path) -> None:
    def fail() -> None:
        with Libvirtd(folder) as libvirtd:
            libvirtd.define("left").start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert processes_of(folder) == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_owner_leaves_nothing(folder: Path, kind: str, end: signal.Signals) -> None:
    groups = cgroups()
    command = [sys.executable, "-c", OWNER, str(folder), KINDS[kind] or ""]
    with subprocess.Popen(
        command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "ready\n"
        running = processes_of(folder)
        assert len(running) == len(["owner", "supervisor", "libvirtd", "left-running", "left-stuck"])
        os.killpg(owner.pid, end)  # as a terminal does for Ctrl-C: all of the group
        owner.wait(HANG_LIMIT_S)
    wait_until_gone(running)
    assert processes_of(folder) == set()
    assert sockets_in(folder) == []
    assert cgroups() == groups


def test_the_commands_start_show_and_stop_one(folder: Path) -> None:
    def lab(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*RUN, *words, str(folder)], env=ENV, capture_output=True, text=True, check=False)

    export = lab("up").stdout
    try:
        assert export == f"export LIBVIRT_DEFAULT_URI='{lab('uri').stdout.strip()}'\n"
        with_it = f"{export} virsh uri"
        assert (
            subprocess.run(["sh", "-c", with_it], capture_output=True, text=True, check=True).stdout.strip() in export
        )
        assert lab("up").stdout == export
        with pytest.raises(LabError, match=f"{folder} is in use by process {owner_of(folder)}"):
            Libvirtd(folder).start()
    finally:
        stopped = lab("down")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert processes_of(folder) == set()
    assert "Nothing runs in" in lab("down").stderr
    assert f"start it with `python -m lab libvirtd up {folder}`" in lab("uri").stderr


def test_a_folder_too_long_for_sockets_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"is \d+ characters too long for the sockets in it: take a shorter path\."):
        Libvirtd(tmp_path / ("x" * 100)).start()


def test_a_folder_that_the_libvirtd_could_not_see_is_refused_in_one_sentence() -> None:
    with pytest.raises(LabError, match=r"is below /run, .*: take another\."):
        Libvirtd(Path("/run/virtsync")).start()


def test_a_cautious_umask_does_not_lock_the_guests_out(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        with Libvirtd(folder) as libvirtd:
            libvirtd.define("cautious", disk=True).start()
    finally:
        os.umask(before)


def test_a_libvirtd_that_does_not_come_up_says_why_and_leaves_nothing(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/qemu").write_text("libvirtd wants a folder here")
    with pytest.raises(LabError, match=r"(?s)libvirtd .*Failed to create lib dir"):
        Libvirtd(folder).start()
    assert processes_of(folder) == set()
    assert owner_of(folder) is None


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.daemon.QEMU_DRIVER", folder / "libvirt_driver_qemu.so")
    with pytest.raises(LabError, match=r"/libvirt_driver_qemu\.so not found: run `make setup`\."):
        Libvirtd(folder).start()
