"""Observes and lists the domains of this node, and performs actions on them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from uuid import UUID

import libvirt

from controller.api.libvirt_words import State
from controller.api.values import replace
from controller.api.virtualmachine import Address, PowerState
from controller.hypervisor import handles, states
from controller.hypervisor.connection import LibvirtConnection
from controller.hypervisor.pidfiles import PidFiles
from controller.hypervisor.text import error_text
from controller.policy.view import Absent, Action, Domain, Evidence, Facts, Phase, PowerAction, Qemu, Replaced, Result
from controller.runtime.errors import Lingers, Rejected, Transient, Unsent, Vanished

REBOOTS = re.compile(r"<on_poweroff>\s*restart\s*</on_poweroff>")
NAME_BYTES = 255
HANGS_MS = 5000
"""A QEMU hangs if it has not responded to libvirt for this time. Normally it responds within milliseconds."""

UNANSWERED = {
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
}
"""The codes of errors after which it is unknown whether libvirtd has performed the call."""
UNANSWERED_FROM = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}
"""The sources of errors of the connection, after which it is also unknown whether libvirtd has performed the call."""

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
"""The word for a job whose kind is not in `JOBS`, or cannot be read without waiting."""


def _kinds() -> dict[int, str]:
    """Return the kind of job for each of libvirt's numbers. Older builds of libvirt-python lack some numbers."""
    named = {getattr(libvirt, f"VIR_DOMAIN_JOB_OPERATION_{name}", None): kind for name, kind in JOBS.items()}
    return {number: kind for number, kind in named.items() if number is not None}


KINDS_OF_JOBS = _kinds()

LINGERS = "libvirt no longer has the domain, but its QEMU process has not exited; virtsync waits until it has."
# For an operation that is invalid in the domain's state, the test driver reports an internal error.
INVALID_IN_STATE = {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INTERNAL_ERROR}


def _press_power_button(domain: libvirt.virDomain) -> None:
    """Request a shutdown by ACPI only. Without the flag, libvirt might use the guest agent, with another effect."""
    if domain.connect().getType() == "TEST":  # the test driver supports no flags
        domain.shutdown()
    else:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


CALLS: dict[Action, Callable[[libvirt.virDomain], object]] = {
    Action.START: lambda domain: domain.create(),
    Action.START_PAUSED: lambda domain: domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED),
    Action.RESUME: lambda domain: domain.resume(),
    Action.WAKE: lambda domain: domain.pMWakeup(0),
    Action.SUSPEND: lambda domain: domain.suspend(),
    Action.SHUTDOWN: _press_power_button,
    Action.DESTROY: lambda domain: domain.destroyFlags(0),
}

Listed = tuple[str, int, tuple[int, int], bool, tuple[bool, bool]]
"""A domain's name, id, (state, reason), whether it has a managed save, and (persistent, autostart)."""


class LibvirtHost:
    """Implements `reconcile.Host` with libvirt. Thread-safe. A method blocks until libvirt returns."""

    def __init__(self, hypervisor: LibvirtConnection, *, blocked: Callable[[], str]) -> None:
        """`blocked` is called just before each action. It returns why this agent must not act, or an empty string."""
        self._hypervisor, self._blocked = hypervisor, blocked
        self._pid_files = PidFiles.of(hypervisor.uri)
        self._flags: dict[UUID, tuple[bool, bool]] = {}
        """The cached (persistent, autostart) of each domain. With it, most observations omit these two calls."""
        self._listed: dict[bytes, tuple[Listed, Domain]] = {}
        """What libvirt returned for each domain in the last relist. Only `relist` uses it, one call at a time."""
        hypervisor.when_redefined(self._redefined)

    def _redefined(self, uuid: UUID) -> None:
        self._flags.pop(uuid, None)

    def observe(self, address: Address) -> Domain | Absent | Replaced:
        """Observe one domain. Raises Transient.

        This makes one libvirt call for a domain that the connection knows, and otherwise two; one more if the domain is
        off, and two more if its flags are not cached.
        """
        with self._hypervisor.query() as connection:
            return self._observe(connection, address)

    def facts(self, domain: Domain) -> Facts:
        """Read the facts that only an action needs. Makes no libvirt call if the domain is off.

        Does not read the definition while another call on the domain has not returned: libvirt 11.3 would return it
        after 30 s (measured; 9.0 returns it at once). Raises Transient, Vanished.
        """
        if domain.phase.off or domain.lingers:
            return Facts(qemu=self._pid_files.qemu(domain.uuid, domain.name))
        with self._hypervisor.query() as connection:
            handle = _found(lambda: connection.lookupByUUID(domain.uuid.bytes))
            if handle is None:
                raise Vanished(f"domain {domain.name} no longer exists")
            try:
                job, hangs = _job_and_hang(handle)
                return Facts(
                    job=job,
                    never_ran=self._never_ran(handle, domain),
                    hangs=hangs,
                    reboots_on_poweroff=not hangs and job != ANY_JOB and reboots_on_poweroff(handle.XMLDesc(0)),
                )
            except libvirt.libvirtError as error:
                raise Transient(error_text(error)) from error

    def _never_ran(self, handle: libvirt.virDomain, domain: Domain) -> bool:
        """Whether the domain is paused and its CPUs have not run since its start.

        Requires that both the events of this connection and the CPU time show this: events might be lost, and the CPU
        time of a domain that has run might be 0. Reading the CPU time does not disturb QEMU or wait for a job.
        """
        if domain.phase.power_state is not PowerState.PAUSED:
            return False
        if not self._hypervisor.evidences.started_paused(domain.uuid, domain.id):
            return False
        try:
            cpus, _ = handle.vcpus()
        except libvirt.libvirtError as error:
            if _unanswered(error):
                raise
            return False  # unknown
        return bool(cpus) and all(time_ns == 0 for _, _, time_ns, *_ in cpus)

    def act(self, action: PowerAction) -> Result:
        """Perform the action, and return its result.

        NOT_CALLED: the domain has changed since it was observed or is gone, its last QEMU still exists, the action has
        expired, or this agent must not act any more.

        Raises Unsent if libvirt gave no answer before the call, Transient if it returned no result of the call, and
        Rejected with libvirt's message if it refused the call.
        """
        with ExitStack() as taken:
            try:
                connection = taken.enter_context(self._hypervisor.action())
                observed = self._observe(connection, Address(uuid=action.domain.uuid))
                handle = _found(lambda: connection.lookupByUUID(action.domain.uuid.bytes))
            except Transient as error:
                raise Unsent(str(error)) from error
            if handle is None or not isinstance(observed, Domain) or not action.fits(observed):
                return Result.NOT_CALLED
            # These two are checked last, because the observation might have taken long.
            if self._blocked() or action.expired(time.monotonic()):
                return Result.NOT_CALLED
            if observed.lingers or (action.kind.starts and observed.phase.off and self._has_qemu(observed)):
                return Result.NOT_CALLED
            return self._result(action.kind, connection, handle, observed)

    def _result(
        self, action: Action, connection: libvirt.virConnect, handle: libvirt.virDomain, domain: Domain
    ) -> Result:
        """Call the action, and return its result. Raises Transient, Rejected."""
        try:
            self._call(action, handle, domain)
        except libvirt.libvirtError as error:
            if _unanswered(error) and not _refused_by_helper(error, connection):
                raise Transient(error_text(error)) from error
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return Result.NOT_CALLED
            if error.get_error_code() in INVALID_IN_STATE:
                observed = self._observe(connection, Address(uuid=domain.uuid))
                if isinstance(observed, Domain) and action.achieved_in(observed.phase):
                    return Result.ALREADY
            raise Rejected(error_text(error)) from error
        return Result.DONE

    def _has_qemu(self, domain: Domain) -> bool:
        """Whether a QEMU of this domain still exists, although libvirt reports the domain off."""
        return self._pid_files.qemu(domain.uuid, domain.name) is Qemu.ALIVE

    def _call(self, action: Action, handle: libvirt.virDomain, domain: Domain) -> None:
        if action is Action.DESTROY:
            self._pid_files.watch(domain.uuid, domain.name)
        try:
            CALLS[action](handle)
        finally:
            self._pid_files.release(domain.uuid)
        if action.starts:
            self._pid_files.started(domain.uuid)
            self._pid_files.watch_running(domain.uuid, domain.name)

    def libvirtd_since(self) -> datetime | None:
        """Return when libvirtd was started, by this host's wall clock, or None if unknown. Does not call libvirt.

        Source: the modification time of driver.pid, which libvirtd and virtqemud write at each start (measured: 9.0).
        """
        return self._pid_files.libvirtd_since()

    def evidence(self, uuid: UUID) -> frozenset[Evidence]:
        """Return the evidence from events of this domain since its last start. Does not call libvirt."""
        return self._hypervisor.evidences.of(uuid)

    def forget_arrival(self, uuid: UUID) -> None:
        """Discard the evidence that the domain arrived by a migration. Does not call libvirt."""
        self._hypervisor.evidences.forget_arrival(uuid)

    def relist(self) -> list[Domain]:
        """Return all domains. Makes four libvirt calls, whatever the number of domains. Raises Transient."""
        asked_s = time.monotonic()
        with self._hypervisor.bulk() as connection:
            everything = list_all(connection)
        listed: dict[bytes, tuple[Listed, Domain]] = {}
        for handle, current in everything:
            raw = handle.UUID()
            previous = self._listed.get(raw)
            # Most domains have not changed: reuse the value.
            domain = previous[1] if previous and previous[0] == current else listed_domain(handle, current)
            self._flags[domain.uuid] = current[4]
            listed[raw] = current, self._update_evidence(domain, asked_s)
        self._listed = listed
        self._forget_flags()
        domains = [domain for _, domain in listed.values()]
        self._pid_files.release_all_but({domain.uuid for domain in domains if domain.phase.on})
        return domains

    def _forget_flags(self) -> None:
        if len(self._flags) > len(self._listed):
            for uuid in list(self._flags):  # a copy, because other threads change the dict
                if uuid.bytes not in self._listed:
                    self._flags.pop(uuid, None)

    def _observe(self, connection: libvirt.virConnect, address: Address) -> Domain | Absent | Replaced:
        uuid, name = address.uuid, address.name
        if uuid:
            asked_s = time.monotonic()
            if (known := _known(connection, uuid)) is not None:
                return self._described(*known, uuid, asked_s)
            handle = _found(lambda: connection.lookupByUUID(uuid.bytes))
            if handle is not None:
                handles.keep(connection, uuid, handle)
                return self._read(handle, uuid)
            self._check_qemu_exited(uuid)
            self._hypervisor.evidences.observed_absent(uuid, asked_s)
        if name is None or not _is_valid(name):
            return Absent()
        handle = _found(lambda: connection.lookupByName(name))
        if handle is None:
            if self._pid_files.lives_on(None, name):
                raise Lingers(LINGERS)
            return Absent()
        found = UUID(bytes=handle.UUID())
        if uuid not in {None, found}:
            return Replaced(found, name)
        return self._read(handle, found)

    def _read(self, handle: libvirt.virDomain, uuid: UUID) -> Domain | Absent:
        asked_s = time.monotonic()
        try:
            numbers = handle.state(0)
        except libvirt.libvirtError as error:
            return self._absent(uuid, error)
        return self._described(handle, numbers, uuid, asked_s)

    def _described(
        self, handle: libvirt.virDomain, numbers: tuple[int, int], uuid: UUID, asked_s: float
    ) -> Domain | Absent:
        """Return the domain with this state, which libvirtd was asked for at `asked_s`."""
        words = states.words(*numbers)
        try:
            managed_save = words[0] == State.SHUTOFF and _has_managed_save(handle)
            flags = self._flags.get(uuid)
            if flags is None:
                self._flags[uuid] = flags = (bool(handle.isPersistent()), bool(handle.autostart()))
        except libvirt.libvirtError as error:
            return self._absent(uuid, error)
        domain = _domain(handle, uuid, words, managed_save=managed_save, flags=flags)
        if domain.phase.on:
            domain = replace(domain, run_since=self._pid_files.watch_running(uuid, domain.name))
        elif domain.phase.off and self._pid_files.lives_on(uuid, domain.name):
            domain = replace(domain, phase=Phase.SHUTTING_DOWN)  # although libvirt reports it off
        return self._update_evidence(domain, asked_s)

    def _absent(self, uuid: UUID, error: libvirt.libvirtError) -> Absent:
        """Return that libvirt no longer has the domain, if this error says so. Raises Transient, Lingers."""
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise Transient(error_text(error)) from error
        self._check_qemu_exited(uuid)
        return Absent()

    def _check_qemu_exited(self, uuid: UUID) -> None:
        """Raise Lingers if a QEMU of this domain, which libvirt no longer has, still exists.

        Another host may start a VM that is reported absent.
        """
        if self._pid_files.lives_on(uuid):
            raise Lingers(LINGERS)

    def _update_evidence(self, domain: Domain, asked_s: float) -> Domain:
        if domain.phase.power_state is PowerState.RUNNING:
            self._hypervisor.evidences.observed_running(domain.uuid, asked_s)
        elif domain.phase.off:
            self._hypervisor.evidences.observed_off(domain.uuid, asked_s)
        return domain


def list_all(connection: libvirt.virConnect) -> list[tuple[libvirt.virDomain, Listed]]:
    """List all domains. Makes four libvirt calls, whatever the number of domains. Raises Transient."""
    try:
        stats = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
        # For each property, list the domains that have the rarer value.
        saved, transient, autostart = (
            {domain.UUID() for domain in connection.listAllDomains(flag)}
            for flag in (
                libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE,
                libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
                libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART,
            )
        )
    except libvirt.libvirtError as error:
        raise Transient(error_text(error)) from error
    listed: list[tuple[libvirt.virDomain, Listed]] = []
    for handle, stat in stats:
        raw, numbers = handle.UUID(), (stat["state.state"], stat["state.reason"])
        flags = raw not in transient, raw in autostart
        listed.append((handle, (handle.name(), handle.ID(), numbers, raw in saved, flags)))
    return listed


def listed_domain(handle: libvirt.virDomain, listed: Listed) -> Domain:
    """Return the domain as `list_all` has listed it. Makes no libvirt call."""
    _, _, numbers, managed_save, flags = listed
    uuid = UUID(bytes=handle.UUID())
    return _domain(handle, uuid, states.words(*numbers), managed_save=managed_save, flags=flags)


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
    """Return the domain that the lookup finds, or None if libvirt reports that it does not exist. Raises Transient."""
    try:
        return lookup()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise Transient(error_text(error)) from error


def reboots_on_poweroff(definition: str) -> bool:
    """Whether the definition turns a shutdown into a reboot. What tools keep in its metadata does not count."""
    before, _, rest = definition.partition("<metadata>")
    # A tool can use an element with this name, too, so the last end tag is that of libvirt's element.
    return REBOOTS.search(before + rest.rpartition("</metadata>")[2]) is not None


def _known(connection: libvirt.virConnect, uuid: UUID) -> handles.Read | None:
    """Return the domain if the connection has a handle of it and it still exists. Raises Transient."""
    try:
        return handles.read(connection, uuid)
    except libvirt.libvirtError as error:
        raise Transient(error_text(error)) from error


def _is_valid(name: str) -> bool:
    """Whether libvirt allows a domain with this name."""
    return 0 < len(name.encode()) <= NAME_BYTES and "/" not in name and "\0" not in name


def _has_managed_save(handle: libvirt.virDomain) -> bool:
    try:
        return bool(handle.hasManagedSaveImage(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return False
        raise


def _job_and_hang(handle: libvirt.virDomain) -> tuple[str, bool]:
    """Return the kind of the job that owns the domain (empty if there is none), and whether the domain's QEMU hangs.

    controlInfo returns at once, but jobStats waits up to 30 s while a call of any client on this domain has not
    returned. Such a call might begin after controlInfo, so no other call is made between controlInfo and jobStats.
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
    """Whether a backup runs. This does not call QEMU. jobStats calls it, and would wait while it hangs."""
    with suppress(libvirt.libvirtError):
        return bool(handle.backupGetXMLDesc(0))
    return False


def _job(handle: libvirt.virDomain) -> str:
    try:
        stats = handle.jobStats(0)
    except libvirt.libvirtError as error:
        # The driver does not support jobs, or the domain has just stopped, so there is no job.
        if error.get_error_code() in {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID}:
            return ""
        raise
    if stats["type"] == libvirt.VIR_DOMAIN_JOB_NONE:
        return ""
    return KINDS_OF_JOBS.get(stats.get("operation"), ANY_JOB)


def _refused_by_helper(error: libvirt.libvirtError, connection: libvirt.virConnect) -> bool:
    """Whether libvirtd has answered that a daemon that it needs, such as virtlogd or virtlockd, does not answer.

    libvirtd returns the error of its own connection to that daemon (measured: VIR_ERR_SYSTEM_ERROR of VIR_FROM_RPC).
    The same error about this connection would have closed it.
    """
    return error.get_error_code() not in UNANSWERED and bool(connection.isAlive())


def _unanswered(error: libvirt.libvirtError) -> bool:
    return error.get_error_code() in UNANSWERED or error.get_error_domain() in UNANSWERED_FROM
