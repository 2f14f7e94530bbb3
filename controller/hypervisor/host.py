"""The domains of this node: looked at, listed, and switched."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import libvirt

from controller.api.libvirt_words import State
from controller.api.virtualmachine import Address, PowerState
from controller.hypervisor import states
from controller.hypervisor.connection import Hypervisor
from controller.hypervisor.pidfiles import PidFiles
from controller.hypervisor.text import text
from controller.policy.view import Absent, Action, Domain, Evidence, Facts, Phase, PowerAction, Qemu, Replaced, Result
from controller.runtime.errors import Rejected, Transient, Vanished

REBOOTS = re.compile(r"<on_poweroff>\s*restart\s*</on_poweroff>")
NAME_BYTES = 255
HANGS_MS = 5000
"""A QEMU that has not answered libvirt for so long hangs: it answers within milliseconds."""

UNANSWERED = {
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
}
UNANSWERED_FROM = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}
"""Errors of the wire: the daemon may or may not have done what was asked."""

JOBS = {
    "BACKUP": "backup",
    "DUMP": "dump",
    "MIGRATION_IN": "migration",
    "MIGRATION_OUT": "migration",
    "SAVE": "save",
    "SNAPSHOT": "snapshot",
    "SNAPSHOT_DELETE": "snapshot",
    "SNAPSHOT_REVERT": "snapshot",
}
ANY_JOB = "job"
"""Of a kind that cannot be told without waiting, or that virtsync has no word for."""


def _kinds() -> dict[int, str]:
    """By libvirt's numbers; older builds of libvirt-python lack some."""
    named = {getattr(libvirt, f"VIR_DOMAIN_JOB_OPERATION_{name}", None): kind for name, kind in JOBS.items()}
    return {number: kind for number, kind in named.items() if number is not None}


KINDS_OF_JOBS = _kinds()

# The test driver says "internal error" where QEMU's says that the operation is invalid in this state.
ALREADY = {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INTERNAL_ERROR}


def _press_power_button(domain: libvirt.virDomain) -> None:
    """Ask the guest by ACPI and nothing else: without the flag a guest agent may be asked, which can do otherwise."""
    if domain.connect().getType() == "TEST":  # the test driver takes no flags
        domain.shutdown()
    else:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


DOES: dict[Action, Callable[[libvirt.virDomain], object]] = {
    Action.START: lambda domain: domain.create(),
    Action.START_PAUSED: lambda domain: domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED),
    Action.RESUME: lambda domain: domain.resume(),
    Action.WAKE: lambda domain: domain.pMWakeup(0),
    Action.SUSPEND: lambda domain: domain.suspend(),
    Action.SHUTDOWN: _press_power_button,
    Action.DESTROY: lambda domain: domain.destroyFlags(0),
}

ACHIEVED: dict[Action, Callable[[Phase], bool]] = {
    Action.START: lambda phase: phase.on,
    Action.START_PAUSED: lambda phase: phase is Phase.PAUSED,
    Action.RESUME: lambda phase: phase is Phase.RUNNING,
    Action.WAKE: lambda phase: phase is Phase.RUNNING,
    Action.SUSPEND: lambda phase: phase is Phase.PAUSED,
    Action.SHUTDOWN: lambda phase: phase.off or phase is Phase.SHUTTING_DOWN,
    Action.DESTROY: lambda phase: phase.off,
}


Listed = tuple[str, int, tuple[int, int], bool, tuple[bool, bool]]
"""Name, id, state and reason, whether it is saved, and its flags."""


class LibvirtHost:
    """`reconcile.Host`, on libvirt. Any thread may call it; a call takes as long as libvirt takes."""

    def __init__(self, hypervisor: Hypervisor, *, blocked: Callable[[], str] = lambda: "") -> None:
        """`blocked` says why nothing may be done now, or nothing; it is asked last of all."""
        self._hypervisor, self._blocked = hypervisor, blocked
        self._pid_files = PidFiles.of(hypervisor.uri)
        self._flags: dict[UUID, tuple[bool, bool]] = {}
        """(persistent, autostart): two calls that most looks can do without."""
        self._listed: dict[bytes, tuple[Listed, Domain]] = {}
        """The domains of the last relist, and what libvirt told of each; only relists touch it, one at a time."""
        hypervisor.when_redefined(self._redefined)

    def _redefined(self, uuid: UUID) -> None:
        self._flags.pop(uuid, None)

    def look(self, address: Address) -> Domain | Absent | Replaced:
        """See one domain as it is now. Raises Transient.

        Two calls, one more of a domain that is off, and two more of one whose definition is not known yet.
        """
        with self._hypervisor.query() as connection:
            return self._look(connection, address)

    def facts(self, domain: Domain) -> Facts:
        """Learn what only an act needs to know; of a domain that is off without a call. Raises Transient, Vanished."""
        if domain.phase.off or domain.lingers:
            return Facts(qemu=self._pid_files.qemu(domain.uuid, domain.name))
        with self._hypervisor.query() as connection:
            handle = _found(lambda: connection.lookupByUUID(domain.uuid.bytes))
            if handle is None:
                raise Vanished(f"domain {domain.name} is gone")
            try:
                job, hangs = _occupied(handle)
                return Facts(
                    job=job,
                    never_ran=self._never_ran(handle, domain),
                    hangs=hangs,
                    reboots_on_poweroff=bool(REBOOTS.search(handle.XMLDesc(0))),
                )
            except libvirt.libvirtError as error:
                raise Transient(text(error)) from error

    def _never_ran(self, handle: libvirt.virDomain, domain: Domain) -> bool:
        """By the events of one connection and by the time that its CPUs have had: the one may be lost, the other 0.

        To ask for that time does not disturb QEMU, and waits for none of its jobs.
        """
        if domain.phase.power_state is not PowerState.PAUSED:
            return False
        if not self._hypervisor.evidences.begun_paused(domain.uuid, domain.id):
            return False
        try:
            cpus, _ = handle.vcpus()
        except libvirt.libvirtError as error:
            if _unanswered(error):
                raise
            return False  # not known
        return bool(cpus) and all(time_ns == 0 for _, _, time_ns, *_ in cpus)

    def act(self, action: PowerAction) -> Result:
        """Do it, if the domain is still as it was seen. Raises Transient (no answer), Rejected (libvirt's words)."""
        address = Address(uuid=action.domain.uuid)
        with self._hypervisor.action() as connection:
            seen = self._look(connection, address)
            if not isinstance(seen, Domain) or (seen.phase, seen.id) != (action.domain.phase, action.domain.id):
                return Result.STALE
            if self._blocked():  # since it was decided on: libvirt may have let the look wait for long
                return Result.STALE
            if seen.lingers or (action.kind.starts and seen.phase.off and self._lives(seen)):
                return Result.STALE
            try:
                self._do(action.kind, connection, seen)
            except libvirt.libvirtError as error:
                if _unanswered(error):
                    raise Transient(text(error)) from error
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return Result.STALE
                if error.get_error_code() in ALREADY:
                    seen = self._look(connection, address)
                    if isinstance(seen, Domain) and ACHIEVED[action.kind](seen.phase):
                        return Result.ALREADY
                raise Rejected(text(error)) from error
            return Result.DONE

    def _lives(self, domain: Domain) -> bool:
        """A QEMU of this domain, which libvirt shows off, is still there."""
        return self._pid_files.qemu(domain.uuid, domain.name) is Qemu.ALIVE

    def _do(self, action: Action, connection: libvirt.virConnect, domain: Domain) -> None:
        handle = connection.lookupByUUID(domain.uuid.bytes)
        if action is Action.DESTROY:
            self._pid_files.watch(domain.uuid, domain.name)
        try:
            DOES[action](handle)
        finally:
            self._pid_files.release(domain.uuid)
        if action.starts:
            self._pid_files.started(domain.uuid)

    def libvirtd_since(self) -> datetime | None:
        """When libvirtd was started, by the wall clock of this host; None: not known. No call of libvirt.

        Source: the time of driver.pid, which libvirtd and virtqemud write anew at each start (measured: 9.0).
        """
        return self._pid_files.libvirtd_since()

    def evidence(self, uuid: UUID) -> frozenset[Evidence]:
        """What events said of this domain since it was last started. No call."""
        return self._hypervisor.evidences.of(uuid)

    def relist(self) -> list[Domain]:
        """All domains, by four bulk calls whatever their number. Raises Transient."""
        asked_s = time.monotonic()
        try:
            with self._hypervisor.bulk() as connection:
                stats = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
                # Of each kind the rarer half is asked for.
                saved, transient, autostart = (
                    {domain.UUID() for domain in connection.listAllDomains(flag)}
                    for flag in (
                        libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE,
                        libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
                        libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART,
                    )
                )
        except libvirt.libvirtError as error:
            raise Transient(text(error)) from error
        listed: dict[bytes, tuple[Listed, Domain]] = {}
        for handle, stat in stats:
            raw = handle.UUID()
            numbers = stat["state.state"], stat["state.reason"]
            is_saved, flags = raw in saved, (raw not in transient, raw in autostart)
            told: Listed = handle.name(), handle.ID(), numbers, is_saved, flags
            known = self._listed.get(raw)
            if known and known[0] == told:  # most are as they were: not worth making anew
                domain = known[1]
            else:
                domain = _domain(handle, UUID(bytes=raw), states.words(*numbers), managed_save=is_saved, flags=flags)
            self._flags[domain.uuid] = flags
            listed[raw] = told, self._seen(domain, asked_s)
        self._listed = listed
        self._forget_flags()
        return [domain for _, domain in listed.values()]

    def _forget_flags(self) -> None:
        if len(self._flags) > len(self._listed):
            for uuid in list(self._flags):  # a copy: other threads write to it
                if uuid.bytes not in self._listed:
                    self._flags.pop(uuid, None)

    def _look(self, connection: libvirt.virConnect, address: Address) -> Domain | Absent | Replaced:
        uuid, name = address.uuid, address.name
        if uuid:
            asked_s = time.monotonic()
            handle = _found(lambda: connection.lookupByUUID(uuid.bytes))
            if handle is not None:
                return self._see(handle, uuid)
            self._hypervisor.evidences.absent(uuid, asked_s)
        if name is None or not _possible(name):
            return Absent()
        handle = _found(lambda: connection.lookupByName(name))
        if handle is None:
            return Absent()
        found = UUID(bytes=handle.UUID())
        if uuid not in {None, found}:
            return Replaced(found, name)
        return self._see(handle, found)

    def _see(self, handle: libvirt.virDomain, uuid: UUID) -> Domain | Absent:
        asked_s = time.monotonic()
        try:
            words = states.words(*handle.state(0))
            managed_save = words[0] == State.SHUTOFF and _has_managed_save(handle)
            flags = self._flags.get(uuid)
            if flags is None:
                self._flags[uuid] = flags = (bool(handle.isPersistent()), bool(handle.autostart()))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return Absent()
            raise Transient(text(error)) from error
        domain = _domain(handle, uuid, words, managed_save=managed_save, flags=flags)
        if domain.phase.on:
            domain = replace(domain, run_since=self._pid_files.run_since(domain.name))
        elif domain.phase.off and self._pid_files.lives_on(uuid):
            domain = replace(domain, phase=Phase.SHUTTING_DOWN)  # whatever libvirt takes it for
        return self._seen(domain, asked_s)

    def _seen(self, domain: Domain, asked_s: float) -> Domain:
        if domain.phase is Phase.RUNNING:
            self._hypervisor.evidences.runs(domain.uuid, asked_s)
        elif domain.phase.off:
            self._hypervisor.evidences.off(domain.uuid, asked_s)
        return domain


def _domain(
    handle: libvirt.virDomain, uuid: UUID, words: tuple[str, str], *, managed_save: bool, flags: tuple[bool, bool]
) -> Domain:
    phase = states.phase(*words, managed_save=managed_save)
    number = handle.ID()
    return Domain(
        uuid=uuid,
        name=handle.name(),
        phase=phase,
        id=number if number >= 0 and not phase.off else None,
        state=words[0],
        reason=words[1],
        persistent=flags[0],
        autostart=flags[1],
    )


def _found(lookup: Callable[[], libvirt.virDomain]) -> libvirt.virDomain | None:
    """What the lookup finds; None only where libvirt says that there is no such domain. Raises Transient."""
    try:
        return lookup()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise Transient(text(error)) from error


def _possible(name: str) -> bool:
    """libvirt can have a domain of this name."""
    return 0 < len(name.encode()) <= NAME_BYTES and "/" not in name and "\0" not in name


def _has_managed_save(handle: libvirt.virDomain) -> bool:
    try:
        return bool(handle.hasManagedSaveImage(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return False
        raise


def _occupied(handle: libvirt.virDomain) -> tuple[str, bool]:
    """(the kind of the job that owns the domain, or nothing; whether its QEMU hangs).

    The control interface answers at once; jobStats waits, for 30 s, while anybody's call on the domain has not
    returned, and one may have begun between the two: so nothing else is asked in between.
    """
    has_backup = _has_backup(handle)
    try:
        control, _, for_ms = handle.controlInfo(0)
        if control == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED:
            hangs = for_ms >= HANGS_MS
            return "" if hangs else ANY_JOB, hangs
        if has_backup:
            return "backup", False
        if control == libvirt.VIR_DOMAIN_CONTROL_JOB:
            return ANY_JOB, False
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID}:
            raise
    try:
        return _job(handle), False
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            return "", True
        raise


def _has_backup(handle: libvirt.virDomain) -> bool:
    """Asked without QEMU: of a backup, jobStats asks QEMU itself, and waits for one that hangs until it wakes."""
    with suppress(libvirt.libvirtError):
        return bool(handle.backupGetXMLDesc(0))
    return False


def _job(handle: libvirt.virDomain) -> str:
    try:
        stats = handle.jobStats(0)
    except libvirt.libvirtError as error:
        # A driver without jobs has none; a domain that went off meanwhile has none either.
        if error.get_error_code() in {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID}:
            return ""
        raise
    if stats["type"] == libvirt.VIR_DOMAIN_JOB_NONE:
        return ""
    return KINDS_OF_JOBS.get(stats.get("operation"), ANY_JOB)


def _unanswered(error: libvirt.libvirtError) -> bool:
    return error.get_error_code() in UNANSWERED or error.get_error_domain() in UNANSWERED_FROM
