"""A real libvirtd through the agent's eyes and hands: looks, events, acts, and connections that come and go."""

import fcntl
import gc
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import libvirt
import pytest

from controller.agent.acting import CALLS_AT_ONCE
from controller.api.virtualmachine import Address
from controller.hypervisor import connection, pool
from controller.hypervisor.connection import FIRST_CONNECTIONS, LibvirtConnection
from controller.hypervisor.events import Evidences
from controller.hypervisor.host import LibvirtHost
from controller.hypervisor.host_lock import HostLock
from controller.hypervisor.host_uuid import HostUuid
from controller.hypervisor.pidfiles import PidFiles
from controller.hypervisor.pool import Opener
from controller.hypervisor.remembered import REMEMBERED
from controller.policy.view import Absent, Action, Domain, Evidence, Facts, Phase, PowerAction, Qemu, Replaced, Result
from controller.runtime.errors import Rejected, Transient
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import paused

HANG_LIMIT_S = 60
CONNECTIONS = FIRST_CONNECTIONS
NODE = """
<node>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>{name}</name><memory>1024</memory><os><type>hvm</type></os>
    <test:runstate>{state}</test:runstate>
  </domain>
</node>
"""
# Runs until its standard input ends, with the hand on the folder it is given.
OTHER_AGENT = """
import sys
from pathlib import Path
from controller.hypervisor.host_lock import HostLock
print(HostLock(Path(sys.argv[1])).acquire(), flush=True)
sys.stdin.read()
"""

# Asks of a QEMU's end for each line that it gets, with nothing but what the agent's Pod has.
AGENT_IN_A_POD = """
import sys
from pathlib import Path
from uuid import UUID
from controller.hypervisor.pidfiles import PidFiles
files, uuid, name = PidFiles(Path(sys.argv[1])), UUID(sys.argv[2]), sys.argv[3]
files.watch(uuid, name)
for _ in sys.stdin:
    print(files.qemu(uuid, name).name, flush=True)
"""
# A mount of the folder that is read-only, and no process of the host in sight.
POD = """
set -e
mount --bind "$0" /mnt
mount -o remount,bind,ro /mnt
mount -t proc proc /proc
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


class Eyes:
    """A hypervisor and its host, with what was told by them; waits by watching."""

    def __init__(self, uri: str, changed: Callable[[UUID], None] = lambda _uuid: None) -> None:
        self.told: queue.Queue[str | UUID] = queue.Queue()
        self.names: dict[UUID, str] = {}
        self.counted: list[str] = []
        self._then = changed
        self.hypervisor = LibvirtConnection(
            uri,
            changed=self._changed,
            on_connected=lambda: self.told.put("connected"),
            on_lost=lambda: self.told.put("lost"),
            count=self.counted.append,
        )
        self.host = LibvirtHost(self.hypervisor, blocked=str)

    def _changed(self, uuid: UUID, name: str, at_s: float) -> None:
        assert at_s <= time.monotonic()
        self.names[uuid] = name
        self._then(uuid)
        self.told.put(uuid)

    def until_told(self, what: str | UUID) -> list[str | UUID]:
        """Wait until it is told; with what was told before."""
        told: list[str | UUID] = []
        while what not in told:
            told.append(self.told.get(timeout=HANG_LIMIT_S))
        return told

    def until_seen(self, guest: Guest, *phases: Phase) -> Domain:
        """Look after each event of a domain until it is in one of these phases."""
        while not (isinstance(seen := self.host.observe(Address(uuid=guest.uuid)), Domain) and seen.phase in phases):
            self.until_told(guest.uuid)
        return seen

    def look(self, guest: Guest) -> Domain:
        """The domain of a guest as it is now."""
        seen = self.host.observe(Address(guest.name, guest.uuid))
        assert isinstance(seen, Domain)
        return seen

    def until_known(self, guest: Guest, *evidence: Evidence) -> None:
        """Wait until the events have said this. Of a crash, libvirt 11 also says that it has ended QEMU."""
        also = {Evidence.SHUTDOWN_HOST} if Evidence.STOPPED_CRASHED in evidence else set()
        until(lambda: self.host.evidence(guest.uuid) - also == set(evidence))

    def act(self, verb: Action, domain: Domain) -> Result:
        """Do it to a domain as it was seen."""
        return self.host.act(PowerAction(verb, domain))


@contextmanager
def looking_at(uri: str, **wishes: Any) -> Iterator[Eyes]:
    """A hypervisor that is connected."""
    eyes = Eyes(uri, **wishes)
    eyes.hypervisor.start()
    try:
        eyes.until_told("connected")
        yield eyes
    finally:
        eyes.hypervisor.close(HANG_LIMIT_S)


@pytest.fixture(autouse=True)
def no_garbage() -> None:
    """Close connections of earlier tests: an exception that a test expected keeps its frames, in a cycle."""
    gc.collect()


@pytest.fixture
def eyes(libvirtd: Libvirtd) -> Iterator[Eyes]:
    with looking_at(libvirtd.uri) as looking:
        yield looking


@pytest.fixture
def guest(libvirtd: Libvirtd, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A domain, off, named after the test."""
    defined = libvirtd.define(request.node.name.removeprefix("test_")[:40])
    try:
        yield defined
    finally:
        defined.remove()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as name:
        yield Path(name)


@pytest.fixture
def own_libvirtd(folder: Path) -> Iterator[Libvirtd]:
    """A libvirtd that the test may ill-treat."""
    with Libvirtd(folder) as running:
        yield running


def until(condition: Callable[[], bool]) -> None:
    """Watch until it is so; closed descriptors are given back by the event loop a moment later."""
    limit_s = time.monotonic() + HANG_LIMIT_S
    while not condition():
        assert time.monotonic() < limit_s, (held(), sockets_to_libvirt())
        time.sleep(0.01)


def held() -> tuple[int, int]:
    """How many descriptors and threads this process has."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def sockets_to_libvirt() -> list[int]:
    """The descriptors of this process's connections to any libvirtd, in the order in which they were opened."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        if path.is_socket():
            with socket.socket(fileno=os.dup(int(path.name))) as one, suppress(OSError):  # not connected
                # The path is the one that libvirtd itself sees.
                if str(one.getpeername()).endswith("/libvirt-sock"):
                    found.append(int(path.name))
    return sorted(found)


def logged(capsys: pytest.CaptureFixture[str]) -> Callable[[str], bool]:
    """Whether this has been logged since the first question."""
    lines: list[str] = []

    def told(what: str) -> bool:
        lines.append(capsys.readouterr().out)
        return what in "".join(lines)

    return told


def configured(libvirtd: Libvirtd, **settings: object) -> None:
    """Have libvirtd restarted with these lines in its configuration."""
    conf = libvirtd.folder / "etc" / "libvirtd.conf"
    names = "|".join(settings)
    kept = re.sub(rf"(?m)^({names}) = .*\n", "", conf.read_text())
    conf.write_text(kept + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    libvirtd.restart()


def cut(descriptor: int) -> None:
    """End a connection as if the other side had."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        one.shutdown(socket.SHUT_RDWR)


# --- looking


def test_a_look_follows_a_guest_through_its_life(eyes: Eyes, guest: Guest) -> None:
    off = eyes.look(guest)
    assert (off.phase, off.id, off.name, off.uuid) == (Phase.STOPPED, None, guest.name, guest.uuid)
    assert (off.persistent, off.autostart) == (True, False)

    guest.start()
    running = eyes.look(guest)
    assert (running.phase, running.state, running.reason) == (Phase.RUNNING, "RUNNING", "BOOTED")
    assert running.id is not None

    guest.libvirtd.virsh("suspend", guest.name)
    assert (eyes.look(guest).phase, eyes.look(guest).id) == (Phase.PAUSED, running.id)
    guest.libvirtd.virsh("resume", guest.name)

    guest.suspend_to_ram()
    assert eyes.until_seen(guest, Phase.SUSPENDED).state == "PMSUSPENDED"
    until(lambda: "pmsuspend" in eyes.counted)
    guest.libvirtd.virsh("dompmwakeup", guest.name)
    eyes.until_seen(guest, Phase.RUNNING)

    guest.libvirtd.virsh("managedsave", guest.name)
    saved = eyes.look(guest)
    assert (saved.phase, saved.reason, saved.id) == (Phase.SAVED, "SAVED", None)
    guest.libvirtd.virsh("start", guest.name)
    assert eyes.look(guest).reason == "RESTORED"
    eyes.until_known(guest)

    guest.libvirtd.virsh("destroy", guest.name)
    assert eyes.look(guest).reason == "DESTROYED"
    assert eyes.names[guest.uuid] == guest.name


def test_a_crash_that_is_kept_and_one_that_is_not(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    libvirtd.define(guest.name, on_crash="preserve")
    guest.start()
    guest.panic()
    kept = eyes.until_seen(guest, Phase.CRASHED_KEPT)
    assert kept.id is not None
    libvirtd.virsh("destroy", guest.name)

    libvirtd.define(guest.name, on_crash="destroy")
    guest.start()
    guest.panic()
    assert eyes.until_seen(guest, Phase.CRASHED_OFF).id is None
    eyes.until_known(guest, Evidence.STOPPED_CRASHED)


def test_a_full_disk_pauses(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    libvirtd.define(guest.name, disk=True)
    guest.start()
    guest.fill_disk()
    eyes.until_seen(guest, Phase.PAUSED_IO_ERROR)


@pytest.mark.parametrize(
    ("number", "phase"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, Phase.RUNNING),
        (libvirt.VIR_DOMAIN_BLOCKED, Phase.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, Phase.PAUSED),
        (libvirt.VIR_DOMAIN_SHUTDOWN, Phase.SHUTTING_DOWN),
        (libvirt.VIR_DOMAIN_SHUTOFF, Phase.STOPPED),
        (libvirt.VIR_DOMAIN_CRASHED, Phase.CRASHED_KEPT),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, Phase.SUSPENDED),
    ],
)
def test_each_state_of_the_test_driver_in_this_process(tmp_path: Path, number: int, phase: Phase) -> None:
    node = tmp_path / "node.xml"
    node.write_text(NODE.format(name="vm", state=number))
    with looking_at(f"test://{node}") as eyes:
        seen = eyes.host.observe(Address(name="vm"))
        assert isinstance(seen, Domain)
        assert seen.phase is phase


def test_only_libvirt_says_absent(eyes: Eyes, guest: Guest) -> None:
    other = uuid4()
    assert eyes.host.observe(Address(uuid=other)) == Absent()
    assert eyes.host.observe(Address(name="nobody")) == Absent()
    assert eyes.host.observe(Address(name="nobody", uuid=other)) == Absent()
    assert eyes.host.observe(Address(name=guest.name, uuid=other)) == Replaced(guest.uuid, guest.name)
    for name in ("", "a/b", "a\0b", "ä" * 128):
        assert eyes.host.observe(Address(name=name)) == Absent()
    found = eyes.host.observe(Address(name=guest.name))
    assert isinstance(found, Domain)
    assert found.uuid == guest.uuid


def test_a_list_shows_what_looks_show(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    on, saved = libvirtd.define(f"{guest.name}-on"), libvirtd.define(f"{guest.name}-saved")
    try:
        on.start()
        saved.start()
        libvirtd.virsh("managedsave", saved.name)
        libvirtd.virsh("autostart", on.name)
        libvirtd.virsh("undefine", on.name)  # it runs on, and is transient now
        listed = {domain.uuid: domain for domain in eyes.host.relist()}
        for one in (guest, on, saved):
            assert listed[one.uuid] == eyes.look(one)
        assert (listed[saved.uuid].phase, listed[on.uuid].persistent) == (Phase.SAVED, False)
    finally:
        libvirtd.virsh("destroy", on.name)
        saved.remove()


def test_a_definition_is_read_again_when_it_has_changed(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    guest.start()
    assert eyes.look(guest).persistent
    libvirtd.virsh("undefine", guest.name)
    until(lambda: not eyes.look(guest).persistent)
    libvirtd.define(guest.name, uuid=guest.uuid)
    until(lambda: eyes.look(guest).persistent)
    libvirtd.virsh("autostart", guest.name)  # of which there is no event
    assert {domain.autostart for domain in eyes.host.relist() if domain.uuid == guest.uuid} == {True}
    assert eyes.look(guest).autostart
    libvirtd.virsh("autostart", "--disable", guest.name)


# --- evidence


def test_evidence_tells_who_stopped_it(eyes: Eyes, guest: Guest) -> None:
    guest.start()
    guest.poweroff()
    eyes.until_known(guest, Evidence.SHUTDOWN_GUEST)
    eyes.until_seen(guest, Phase.STOPPED)

    guest.start()
    eyes.until_known(guest)
    guest.libvirtd.virsh("destroy", guest.name)
    eyes.until_known(guest, Evidence.SHUTDOWN_HOST)

    guest.start()
    eyes.until_known(guest)
    guest.kill()
    eyes.until_known(guest, Evidence.STOPPED_FAILED)


def test_a_reset_is_told_and_is_no_stop(eyes: Eyes, guest: Guest) -> None:
    guest.start()
    running = eyes.look(guest)
    guest.reset()
    until(lambda: "reboot" in eyes.counted)
    assert eyes.look(guest) == running
    assert not eyes.host.evidence(guest.uuid)


def test_a_domain_that_is_defined_anew_has_no_past(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    guest.start()
    guest.kill()
    eyes.until_known(guest, Evidence.STOPPED_FAILED)
    libvirtd.virsh("undefine", guest.name)
    libvirtd.define(guest.name, uuid=guest.uuid)
    eyes.until_known(guest)


def test_a_definition_that_nobody_heard_of_inherits_nothing(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    guest.start()
    guest.kill()
    eyes.until_known(guest, Evidence.STOPPED_FAILED)
    libvirtd.virsh("undefine", guest.name)
    until(lambda: eyes.host.observe(Address(uuid=guest.uuid)) == Absent())
    with unheard(eyes):
        libvirtd.define(guest.name, uuid=guest.uuid)
    assert eyes.host.evidence(guest.uuid)
    assert eyes.look(guest).phase is Phase.STOPPED
    assert not eyes.host.evidence(guest.uuid)


def test_a_look_that_began_before_the_domain_went_does_not_bring_it_back() -> None:
    evidences, uuid = Evidences(), uuid4()
    evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED, at_s=1.0)
    evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_UNDEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED_REMOVED, at_s=2.0)
    evidences.observed_off(uuid, asked_s=1.5)
    assert evidences.of(uuid) == {Evidence.STOPPED_MIGRATED}
    evidences.observed_off(uuid, asked_s=2.5)
    assert not evidences.of(uuid)


def test_a_definition_does_not_end_what_a_running_domain_is_known_for() -> None:
    evidences, uuid, added = Evidences(), uuid4(), libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED
    started = libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED
    evidences.note(uuid, *started, at_s=1.0, run=3)
    evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_DEFINED, added, at_s=2.0, run=3)
    evidences.observed_running(uuid, asked_s=3.0)
    assert evidences.of(uuid) == {Evidence.STARTED_MIGRATED}


@pytest.mark.parametrize(
    ("detail", "arrived"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, True),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED, False),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED, False),  # libvirt says so if the migration to this host has failed
    ],
)
def test_an_arrival_ends_when_the_domain_leaves(detail: int, *, arrived: bool) -> None:
    evidences, uuid = Evidences(), uuid4()
    started = libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED
    evidences.note(uuid, *started, at_s=1.0, run=3)
    evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_STOPPED, detail, at_s=2.0)
    assert (Evidence.STARTED_MIGRATED in evidences.of(uuid)) == arrived


def test_an_arrival_that_was_reported_is_forgotten() -> None:
    evidences, uuid = Evidences(), uuid4()
    evidences.forget_arrival(uuid)
    evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED, at_s=1.0, run=3)
    evidences.forget_arrival(uuid)
    assert not evidences.of(uuid)


@contextmanager
def unheard(eyes: Eyes) -> Iterator[None]:
    """The connection is lost meanwhile: no event is heard."""
    done = threading.Event()

    def stay_lost() -> None:
        eyes.told.put("lost")
        done.wait(HANG_LIMIT_S)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(eyes.hypervisor, "_on_lost", stay_lost)  # the keeper opens nothing before it returns
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        cut(sockets_to_libvirt()[0])
        eyes.until_told("lost")
        yield
        done.set()
        eyes.until_told("connected")


@pytest.mark.parametrize("by", ["look", "list"])
def test_a_start_that_nobody_heard_makes_earlier_stops_void(eyes: Eyes, guest: Guest, by: str) -> None:
    guest.start()
    guest.kill()
    eyes.until_known(guest, Evidence.STOPPED_FAILED)
    with unheard(eyes):
        guest.start()
    assert eyes.host.evidence(guest.uuid)
    if by == "look":
        assert eyes.look(guest).phase is Phase.RUNNING
    else:
        eyes.host.relist()
    assert not eyes.host.evidence(guest.uuid)


def test_a_stop_before_a_start_that_nobody_heard_explains_nothing() -> None:
    evidences, uuid = Evidences(), uuid4()
    stopped, failed = libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED
    shutdown, by_guest = libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST
    evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED, at_s=1.0)
    evidences.note(uuid, stopped, failed, at_s=2.0)
    evidences.note(uuid, shutdown, by_guest, at_s=4.0)
    evidences.observed_running(uuid, asked_s=3.0)
    assert evidences.of(uuid) == {Evidence.SHUTDOWN_GUEST}


def test_evidence_does_not_grow_for_ever() -> None:
    evidences, first = Evidences(), uuid4()
    for uuid in [first, *(uuid4() for _ in range(REMEMBERED))]:
        evidences.note(uuid, libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED, at_s=1.0)
    assert not evidences.of(first)
    assert evidences.of(uuid)


def test_nothing_that_a_listener_raises_ends_the_loop(
    libvirtd: Libvirtd, guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: Iterator[type[BaseException]] = iter([SystemExit, ValueError])

    def fail(_uuid: UUID) -> None:
        if kind := next(kinds, None):
            raise kind("from a callback")

    with looking_at(libvirtd.uri, changed=fail) as eyes:
        guest.start()
        guest.libvirtd.virsh("destroy", guest.name)
        eyes.until_told(guest.uuid)
        assert eyes.hypervisor.alive()
        told = logged(capsys)
        until(lambda: told("SystemExit: from a callback"))
        until(lambda: told("ValueError: from a callback"))


# --- acts


def test_every_act_and_the_same_once_more(eyes: Eyes, guest: Guest) -> None:
    def done(verb: Action) -> Domain:
        before = eyes.look(guest)
        assert eyes.act(verb, before) is Result.DONE
        # What was seen is no longer so: the same act is not done again.
        assert eyes.look(guest).phase is not before.phase
        assert eyes.act(verb, before) is Result.NOT_CALLED
        # Somebody was faster: no failure.
        after = eyes.look(guest)
        # libvirt itself does not mind a second suspend().
        assert eyes.act(verb, after) is (Result.DONE if verb is Action.SUSPEND else Result.ALREADY)
        assert eyes.look(guest) == after
        return after

    assert done(Action.START).phase is Phase.RUNNING
    assert done(Action.SUSPEND).phase is Phase.PAUSED
    assert done(Action.RESUME).phase is Phase.RUNNING
    assert done(Action.DESTROY).phase is Phase.STOPPED
    assert done(Action.START_PAUSED).phase is Phase.PAUSED
    assert done(Action.RESUME).phase is Phase.RUNNING
    guest.wait_until_booted()
    guest.suspend_to_ram()
    asleep = eyes.until_seen(guest, Phase.SUSPENDED)
    assert eyes.act(Action.WAKE, asleep) is Result.DONE
    eyes.until_seen(guest, Phase.RUNNING)
    guest.wait_until_booted()
    assert eyes.act(Action.SHUTDOWN, eyes.look(guest)) is Result.DONE
    off = eyes.until_seen(guest, Phase.STOPPED)
    assert eyes.host.evidence(guest.uuid) == {Evidence.SHUTDOWN_GUEST}
    assert eyes.act(Action.SHUTDOWN, off) is Result.ALREADY


def test_another_run_of_the_domain_is_left_alone(eyes: Eyes, guest: Guest) -> None:
    guest.start()
    first = eyes.look(guest)
    guest.libvirtd.virsh("destroy", guest.name)
    guest.start()
    assert eyes.act(Action.DESTROY, first) is Result.NOT_CALLED
    second = eyes.look(guest)
    assert second.phase is Phase.RUNNING
    assert second.id != first.id


def test_who_may_no_longer_act_after_the_last_look_does_not(eyes: Eyes, guest: Guest) -> None:
    guest.start()
    seen, may_not = eyes.look(guest), ["The Lease is not held."]
    host = LibvirtHost(eyes.hypervisor, blocked=lambda: "".join(may_not))
    assert host.act(PowerAction(Action.DESTROY, seen)) is Result.NOT_CALLED
    assert eyes.look(guest) == seen
    may_not.clear()
    assert host.act(PowerAction(Action.DESTROY, seen)) is Result.DONE


def test_a_domain_that_is_gone_is_left_alone(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    seen = eyes.look(guest)
    guest.libvirtd.virsh("undefine", guest.name)
    assert eyes.act(Action.START, seen) is Result.NOT_CALLED
    libvirtd.define(guest.name, uuid=guest.uuid)


def test_a_refusal_comes_in_the_words_of_libvirt(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    off = eyes.look(guest)
    with pytest.raises(Rejected, match="domain is not running"):
        eyes.act(Action.SUSPEND, off)
    xml = libvirtd.virsh("dumpxml", guest.name).stdout.replace("/guest.img'", "/missing.img'")
    with libvirtd.connection() as direct:
        direct.defineXML(xml)
    with pytest.raises(Rejected, match=r"missing\.img"):
        eyes.act(Action.START, off)
    assert eyes.look(guest).reason == "FAILED"


def test_facts_are_what_an_act_needs_to_know(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    libvirtd.define(guest.name, on_poweroff="restart")
    guest.start()
    facts = eyes.host.facts(eyes.look(guest))
    assert (facts.job, facts.reboots_on_poweroff) == ("", True)
    libvirtd.virsh("destroy", guest.name)
    libvirtd.define(guest.name)
    guest.start()
    assert not eyes.host.facts(eyes.look(guest)).reboots_on_poweroff


def test_a_call_that_began_between_two_questions_is_seen_to_hang(
    eyes: Eyes, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.start()
    running = eyes.look(guest)
    control_of, begun = libvirt.virDomain.controlInfo, threading.Event()
    late = threading.Thread(target=eyes.act, args=(Action.SUSPEND, running), daemon=True)

    def control_of_the_moment_before(domain: libvirt.virDomain, flags: int) -> list[int]:
        before: list[int] = control_of(domain, flags)
        if not begun.is_set():
            begun.set()
            late.start()
            until(lambda: control_of(domain, flags) != before)
        return before

    monkeypatch.setattr(libvirt.virDomain, "controlInfo", control_of_the_moment_before)
    with paused(guest.qemu_pid):
        assert eyes.host.facts(running).hangs
    late.join(HANG_LIMIT_S)
    assert eyes.look(guest).phase is Phase.PAUSED


def test_acts_of_the_test_driver(libvirtd: Libvirtd) -> None:
    with looking_at(libvirtd.test_uri) as eyes:

        def test() -> Domain:
            seen = eyes.host.observe(Address(name="test"))
            assert isinstance(seen, Domain)
            return seen

        for verb, phase in {
            Action.SUSPEND: Phase.PAUSED,
            Action.RESUME: Phase.RUNNING,
            Action.SHUTDOWN: Phase.STOPPED,
            Action.START: Phase.RUNNING,
            Action.DESTROY: Phase.STOPPED,
        }.items():
            assert eyes.act(verb, test()) is Result.DONE
            assert test().phase is phase
            assert eyes.act(verb, test()) is Result.ALREADY
        assert eyes.host.relist() == [test()]


def test_the_host_is_described_once_it_is_connected(eyes: Eyes, libvirtd: Libvirtd) -> None:
    until(lambda: eyes.hypervisor.host_facts is not None)
    facts = eyes.hypervisor.host_facts
    assert facts
    told = libvirtd.virsh("version", "--daemon").stdout
    assert f"libvirt {facts.libvirt_version}" in told
    assert f"QEMU {facts.qemu_version}" in told
    info = libvirtd.virsh("nodeinfo").stdout
    assert re.search(rf"CPU\(s\): +{facts.capacity.cpus}\n", info)
    (memory_kib,) = re.findall(r"Memory size: +(\d+) KiB", info)
    assert facts.capacity.memory_mib == int(memory_kib) // 1024


def test_a_libvirt_without_qemu_has_no_version_of_it(libvirtd: Libvirtd) -> None:
    with looking_at(libvirtd.test_uri) as eyes:
        until(lambda: eyes.hypervisor.host_facts is not None)
        assert eyes.hypervisor.host_facts
        assert not eyes.hypervisor.host_facts.qemu_version
        assert eyes.hypervisor.host_facts.libvirt_version


def test_a_connection_serves_one_call_at_a_time(eyes: Eyes) -> None:
    for lane, calls in ((eyes.hypervisor.bulk, 1), (eyes.hypervisor.query, 8), (eyes.hypervisor.action, CALLS_AT_ONCE)):
        with ExitStack() as under_way:
            taken = {id(under_way.enter_context(lane())) for _ in range(calls)}
            assert len(taken) == calls
            with pytest.raises(Transient, match="has not answered"), lane():
                pass
        with lane():
            pass


def test_what_is_opened_on_demand_is_closed_when_idle(eyes: Eyes, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
    with ExitStack() as under_way:
        for _ in range(3):
            under_way.enter_context(eyes.hypervisor.query())
        assert len(sockets_to_libvirt()) == CONNECTIONS + 2
    monkeypatch.setattr(connection, "IDLE_S", 0.0)
    eyes.hypervisor._wake.set()
    until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
    with eyes.hypervisor.query() as left:
        assert left.isAlive()


def test_the_loss_of_a_connection_that_was_opened_on_demand_is_noticed(own_libvirtd: Libvirtd) -> None:
    with looking_at(own_libvirtd.uri) as eyes:
        with eyes.hypervisor.query(), eyes.hypervisor.query():
            cut(sockets_to_libvirt()[-1])
            eyes.until_told("lost")
        eyes.until_told("connected")
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)


# --- a libvirtd that serves few clients

OPEN_WITHIN_S = 5.0
"""Shorter than in the product, where it is 10 s, and long enough for a machine that is busy."""
FEW = {"max_clients": 12, "max_anonymous_clients": 10}


def virsh_works(libvirtd: Libvirtd) -> bool:
    """It is let in within a while."""
    command = ["virsh", "-q", "-c", libvirtd.uri, "list"]
    return subprocess.run(["timeout", "20", *command], check=False, capture_output=True).returncode == 0


def test_a_libvirtd_that_serves_few_clients_serves_others_too(own_libvirtd: Libvirtd) -> None:
    configured(own_libvirtd, **FEW)
    with looking_at(own_libvirtd.uri) as eyes, ExitStack() as others:
        for _ in range(7):
            others.enter_context(own_libvirtd.connection())
        assert virsh_works(own_libvirtd)
        assert eyes.host.relist() == []


def test_who_gets_no_more_connections_lives_with_what_there_are(
    own_libvirtd: Libvirtd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPEN_WITHIN_S", OPEN_WITHIN_S)
    monkeypatch.setattr(connection, "IDLE_S", 1.0)
    configured(own_libvirtd, **FEW)
    told = logged(capsys)
    with looking_at(own_libvirtd.uri) as eyes, ExitStack() as others:
        for _ in range(7):
            others.enter_context(own_libvirtd.connection())
        with eyes.hypervisor.query(), eyes.hypervisor.query():
            with pytest.raises(Transient, match="has not answered"), eyes.hypervisor.query():
                pass
            until(lambda: told(f"libvirt accepted 5 connections, and no further one within {OPEN_WITHIN_S:g} s"))
        assert eyes.host.relist() == []
        # What it does not need it has given back.
        until(lambda: virsh_works(own_libvirtd))


def test_who_cannot_have_the_first_connections_gives_back_what_it_got(
    own_libvirtd: Libvirtd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPEN_WITHIN_S", OPEN_WITHIN_S)
    configured(own_libvirtd, max_clients=3, max_anonymous_clients=3)
    told, eyes = logged(capsys), Eyes(own_libvirtd.uri)
    eyes.hypervisor.start()
    try:
        until(lambda: told("libvirt accepted 3 of the first 4 connections"))
        until(lambda: virsh_works(own_libvirtd))
        assert not eyes.hypervisor.connected
        configured(own_libvirtd, max_clients=12)
        eyes.until_told("connected")
    finally:
        eyes.hypervisor.close(HANG_LIMIT_S)


def test_an_open_that_hangs_is_the_only_one_and_comes_to_nothing(own_libvirtd: Libvirtd) -> None:
    opener = Opener(own_libvirtd.uri)
    with looking_at(own_libvirtd.uri):  # its event loop gives closed descriptors back
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        threads = threading.active_count()
        with paused(own_libvirtd.pid):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    opener.open(0.1)
            assert threading.active_count() == threads + 1
        until(lambda: threading.active_count() == threads)
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        opened = opener.open(HANG_LIMIT_S)
        assert opened.isAlive()
        pool.close(opened)


def test_a_connection_in_use_is_closed_when_its_call_has_returned(own_libvirtd: Libvirtd) -> None:
    with looking_at(own_libvirtd.uri) as eyes:
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        with eyes.hypervisor.query() as connection:
            own_libvirtd.restart()
            eyes.until_told("lost")
            eyes.until_told("connected")
            until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
            assert not connection.isAlive()
        with eyes.hypervisor.query() as other:
            assert other.isAlive()
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)


# --- a QEMU's pid file


def test_the_pid_file_tells_since_when_it_runs_and_libvirtd_does(own_libvirtd: Libvirtd) -> None:
    guest = own_libvirtd.define("vm")
    with looking_at(own_libvirtd.uri) as eyes:
        assert eyes.look(guest).run_since is None
        before = datetime.now(UTC)
        guest.start()
        since = eyes.look(guest).run_since
        assert since
        assert before <= since <= datetime.now(UTC)
        began = eyes.host.libvirtd_since()
        assert began
        assert began < before
        own_libvirtd.kill()  # it leaves its own file behind
        eyes.until_told("lost")
        restarted = datetime.now(UTC)
        own_libvirtd.start()
        eyes.until_told("connected")
        assert eyes.look(guest).run_since == since
        began = eyes.host.libvirtd_since()
        assert began
        assert restarted <= began <= datetime.now(UTC)
        # While libvirtd takes its guests over, a destroy ends QEMU and fails with "domain is not running".
        guest.libvirtd.virsh("destroy", guest.name, check=False)
        assert eyes.look(guest).run_since is None


def test_a_session_libvirtd_keeps_its_pid_files_elsewhere(folder: Path) -> None:
    folder.chmod(0o755)
    with Libvirtd(folder, user="nobody") as libvirtd:
        guest = libvirtd.define("vm")
        guest.start()
        files = PidFiles.of(libvirtd.uri)
        assert files.watch_running(guest.uuid, "vm")
        assert files.libvirtd_since()
        assert files.qemu(guest.uuid, "vm") is Qemu.ALIVE


def test_a_libvirt_without_qemus_has_no_pid_files() -> None:
    for uri in ("test:///default", "test+unix:///default?socket=/a/libvirt-sock", "lxc:///system"):
        files, uuid = PidFiles.of(uri), uuid4()
        files.watch(uuid, "vm")
        assert files.qemu(uuid, "vm") is Qemu.GONE
        assert files.watch_running(uuid, "vm") is files.libvirtd_since() is None


def test_the_end_of_a_qemu_is_seen_from_within_a_pod(libvirtd: Libvirtd, guest: Guest) -> None:
    guest.start()
    files = libvirtd.folder / "run" / "qemu"
    agent = [sys.executable, "-c", AGENT_IN_A_POD, "/mnt/qemu", str(guest.uuid), guest.name]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", POD, str(files.parent), *agent]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pod:
        assert pod.stdin
        assert pod.stdout

        def answer() -> str:
            assert pod.stdin
            assert pod.stdout
            pod.stdin.write("\n")
            pod.stdin.flush()
            return pod.stdout.readline().strip()

        with paused(guest.qemu_pid):
            assert answer() == "ALIVE"
            (files / f"{guest.name}.pid").unlink()  # as libvirt does
            assert answer() == "ALIVE"
        guest.kill()
        assert answer() == "GONE"
        pod.stdin.close()


def test_a_qemu_that_libvirtd_has_lost_keeps_its_domain_from_being_started(own_libvirtd: Libvirtd) -> None:
    guest = own_libvirtd.define("vm")
    guest.start()
    own_libvirtd.kill()
    (own_libvirtd.folder / "run" / "qemu" / "vm.xml").unlink()  # as if it had been killed before it wrote that
    own_libvirtd.start()
    with looking_at(own_libvirtd.uri) as eyes:
        off = eyes.look(guest)
        assert off.phase is Phase.STOPPED
        assert eyes.host.facts(off) == Facts(qemu=Qemu.ALIVE)
        assert eyes.act(Action.START, off) is Result.NOT_CALLED
        guest.kill()
        assert eyes.host.facts(off) == Facts()
        assert eyes.act(Action.START, off) is Result.DONE


def test_who_could_not_open_the_file_before_is_not_sure(libvirtd: Libvirtd, guest: Guest) -> None:
    guest.start()
    pid_file, uuid = libvirtd.folder / "run" / "qemu" / f"{guest.name}.pid", guest.uuid
    with_eyes, blind = PidFiles(pid_file.parent), PidFiles(pid_file.parent / "missing")
    unlocked = PidFiles(libvirtd.folder / "etc")
    (libvirtd.folder / "etc" / pid_file.name).touch()
    for files in (with_eyes, blind, unlocked):
        assert files.qemu(uuid, guest.name) is (Qemu.ALIVE if files is with_eyes else Qemu.GONE)
        files.watch(uuid, guest.name)
    libvirtd.virsh("destroy", guest.name)
    for files, ended in ((with_eyes, Qemu.GONE), (blind, Qemu.UNSURE), (unlocked, Qemu.UNSURE)):
        assert files.qemu(uuid, guest.name) is ended
        assert files.qemu(uuid, guest.name) is ended
        files.started(uuid)
        assert files.qemu(uuid, guest.name) is Qemu.GONE
    (libvirtd.folder / "etc" / pid_file.name).unlink()


def test_a_file_that_may_not_be_opened_leaves_one_unsure(tmp_path: Path) -> None:
    (tmp_path / "vm.pid").symlink_to(tmp_path / "vm.pid")
    assert PidFiles(tmp_path).qemu(uuid4(), "vm") is Qemu.UNSURE


def test_no_descriptor_is_kept_of_a_qemu_that_has_ended(eyes: Eyes, guest: Guest) -> None:
    def of_pid_files() -> list[str]:
        links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [str(link) for link in links if str(link).startswith(str(file))]

    files, file = PidFiles.of(guest.libvirtd.uri), guest.libvirtd.folder / "run" / "qemu" / f"{guest.name}.pid"
    guest.start()
    for _ in range(3):
        files.watch(guest.uuid, guest.name)
        files.release(guest.uuid)
        assert len(of_pid_files()) == 1, "it lives"
    assert eyes.act(Action.DESTROY, eyes.look(guest)) is Result.DONE
    files.release(guest.uuid)
    assert of_pid_files() == []


# --- what has not run has nothing to lose


def test_a_backup_tool_has_started_it_paused(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
    with libvirtd.connection() as tool:
        tool.lookupByUUID(guest.uuid.bytes).createWithFlags(flags)
        eyes.until_told(guest.uuid)
        until(lambda: eyes.host.facts(eyes.look(guest)) == Facts(never_ran=True))
    eyes.until_seen(guest, Phase.STOPPED)


def test_who_was_away_does_not_know_that_it_has_not_run(eyes: Eyes, guest: Guest) -> None:
    assert eyes.act(Action.START_PAUSED, eyes.look(guest)) is Result.DONE
    until(lambda: eyes.host.facts(eyes.look(guest)).never_ran)
    with unheard(eyes):
        pass
    assert not eyes.host.facts(eyes.look(guest)).never_ran


def test_what_events_do_not_tell_its_cpus_do(eyes: Eyes, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyes.hypervisor.evidences, "started_paused", lambda *_: True)
    guest.start()
    guest.libvirtd.virsh("suspend", guest.name)
    assert not eyes.host.facts(eyes.look(guest)).never_ran


# --- libvirt's words


def test_what_qemu_says_twice_is_the_same_twice(eyes: Eyes, libvirtd: Libvirtd, guest: Guest) -> None:
    xml = libvirtd.virsh("dumpxml", guest.name).stdout
    namespace = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
    nonsense = "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline>"
    with libvirtd.connection() as direct:
        direct.defineXML(
            xml.replace("type='qemu'", f"type='qemu' {namespace}").replace("</domain>", f"{nonsense}</domain>")
        )
    said = []
    for _ in range(2):
        with pytest.raises(Rejected, match="-nonsense: invalid option") as refusal:
            eyes.act(Action.START, eyes.look(guest))
        # libvirt itself has some ways to put it: it has seen the end of QEMU, or that of its monitor.
        said += re.findall(r"qemu-system-.*", str(refusal.value))
    assert said == ["qemu-system-i386: -nonsense: invalid option"] * 2


# --- the UUID of the host


def test_the_uuid_of_the_host_is_known_when_it_is_connected(own_libvirtd: Libvirtd) -> None:
    known: list[UUID | None] = []
    with looking_at(own_libvirtd.uri) as eyes:
        known.append(eyes.hypervisor.host_uuid)
    assert str(known[0]) in (own_libvirtd.folder / "etc" / "libvirtd.conf").read_text()


def test_a_uuid_that_changes_when_libvirtd_is_restarted_is_none(
    own_libvirtd: Libvirtd, capsys: pytest.CaptureFixture[str]
) -> None:
    told = logged(capsys)
    with looking_at(own_libvirtd.uri) as eyes:
        first = eyes.hypervisor.host_uuid
        own_libvirtd.restart()
        eyes.until_told("connected")
        assert eyes.hypervisor.host_uuid == first
        for uuid in (uuid4(), first):
            configured(own_libvirtd, host_uuid=f'"{uuid}"')
            eyes.until_told("connected")
            until(lambda: eyes.hypervisor.host_uuid is None)
        until(lambda: told("set host_uuid in libvirtd.conf"))


def test_a_uuid_that_another_agent_found_changed_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    known, uuid = HostUuid(), uuid4()
    known.note(uuid)
    known.note(None)
    known.note(uuid)
    values = [known.value]
    known.forget()
    known.forget()
    known.note(uuid)
    assert [*values, known.value] == [uuid, None]
    assert capsys.readouterr().out.count("host_uuid") == 1


def test_the_test_driver_tells_no_uuid() -> None:
    with looking_at("test:///default") as eyes:
        assert eyes.hypervisor.host_uuid is None


# --- connections


def test_after_a_restart_of_libvirtd_it_listens_before_it_lists(own_libvirtd: Libvirtd) -> None:
    guest = own_libvirtd.define("vm")
    guest.start()
    with looking_at(own_libvirtd.uri) as eyes:
        before = eyes.look(guest)
        own_libvirtd.kill()
        eyes.until_told("lost")
        assert not eyes.hypervisor.connected
        for call in (eyes.host.relist, lambda: eyes.look(guest), lambda: eyes.act(Action.DESTROY, before)):
            with pytest.raises(Transient):
                call()
        assert eyes.hypervisor.alive()  # it is not the agent that is ill
        own_libvirtd.start()
        eyes.until_told("connected")
        assert eyes.look(guest).id == before.id
        # Nothing is waited for after "connected": events are heard from there on.
        own_libvirtd.virsh("suspend", guest.name)
        eyes.until_told(guest.uuid)
        assert eyes.look(guest).phase is Phase.PAUSED


def test_a_libvirtd_that_is_not_there_yet_is_waited_for(folder: Path) -> None:
    libvirtd = Libvirtd(folder)
    eyes = Eyes(libvirtd.uri)
    eyes.hypervisor.start()
    try:
        with pytest.raises(Transient, match="not connected"):
            eyes.host.observe(Address(name="vm"))
        with libvirtd:
            eyes.until_told("connected")
            assert eyes.hypervisor.connected
            eyes.hypervisor.close(HANG_LIMIT_S)
    finally:
        eyes.hypervisor.close(HANG_LIMIT_S)


def test_late_news_of_an_old_connection_change_nothing(own_libvirtd: Libvirtd) -> None:
    with looking_at(own_libvirtd.uri) as eyes:
        old = eyes.hypervisor._connections
        assert old
        own_libvirtd.restart()
        eyes.until_told("lost")
        eyes.until_told("connected")
        eyes.hypervisor._closed(old.events, libvirt.VIR_CONNECT_CLOSE_REASON_EOF, old.generation)
        assert eyes.hypervisor.connected
        assert eyes.host.relist() == []
        assert eyes.told.empty()


@pytest.mark.parametrize("number", [0, 1, 2, 3], ids=["events", "bulk", "query", "action"])
def test_the_loss_of_any_connection_is_noticed(own_libvirtd: Libvirtd, number: int) -> None:
    with looking_at(own_libvirtd.uri) as eyes:
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        cut(sockets_to_libvirt()[number])
        eyes.until_told("lost")
        eyes.until_told("connected")
        assert eyes.host.relist() == []


def test_reconnecting_leaves_nothing_behind(own_libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> None:
    # A retry waits twice as long each time that a connection does not last, which is not what is shown here.
    monkeypatch.setattr(connection, "RETRY_MAX_S", 0.01)
    with looking_at(own_libvirtd.uri) as eyes:
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        before = held()
        for _ in range(20):
            until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
            cut(sockets_to_libvirt()[0])
            eyes.until_told("lost")
            eyes.until_told("connected")
        until(lambda: held() == before)


def test_an_end_in_order_leaves_nothing_behind(libvirtd: Libvirtd) -> None:
    with looking_at(libvirtd.uri):
        until(lambda: len(sockets_to_libvirt()) == CONNECTIONS)
        before = held()
    for _ in range(5):
        with looking_at(libvirtd.uri) as eyes:
            assert eyes.hypervisor.alive()
        assert not eyes.hypervisor.alive()
    with looking_at(libvirtd.uri):
        until(lambda: held() == before)


# --- the one hand


def test_the_hand_is_one_until_its_process_dies(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_AGENT, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        hand = HostLock(tmp_path)
        assert not hand.acquire()
        assert f"process {other.pid} (" in hand.why_not_held
        other.kill()
        other.wait()
        assert hand.acquire()
        assert hand.acquire()
        hand.release()
    finally:
        other.kill()
        other.communicate()
    with (tmp_path / "x").open("w") as file:  # flock is on the folder alone
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_is_not_there_yet_is_no_hand(tmp_path: Path) -> None:
    hand = HostLock(tmp_path / "missing")
    assert not hand.acquire()
    assert "No such file" in hand.why_not_held
    (tmp_path / "missing").mkdir()
    assert hand.acquire()
    hand.release()


def test_a_folder_that_was_removed_is_known_by_who_has_its_lock(tmp_path: Path) -> None:
    folder = tmp_path / "libvirt"
    folder.mkdir()
    hand, other = HostLock(folder), HostLock(folder)
    assert hand.acquire()
    assert not hand.removed()
    folder.rmdir()
    assert hand.removed()
    folder.mkdir()
    assert hand.removed()
    # who has no lock yet asks for that of the new one
    assert not other.removed()
    assert other.acquire()
    for held in (hand, other):
        held.release()


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("qemu:///system", "/run/libvirt"),
        ("qemu+unix:///system?socket=/a/b/libvirt-sock", "/a/b"),
        ("qemu:///session", "/users/me/libvirt"),
        ("test+unix:///default?socket=/a/b/libvirt-sock", "/a/b"),
    ],
)
def test_the_hand_is_on_the_folder_of_the_socket(uri: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/users/me")
    assert HostLock.of(uri)._directory == Path(folder)


def test_a_libvirt_within_the_process_is_nobody_elses() -> None:
    assert HostLock.of("test:///default").acquire()
