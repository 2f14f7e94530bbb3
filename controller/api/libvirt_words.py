"""The names of libvirt's domain states, and of the reasons that decisions use. Pure.

Source: the enums virDomainState and virDomain*Reason of libvirt-domain.h. Each enum here has libvirt's numeric order.
`status.libvirt` can also contain plain text: reasons of other states, and STATE_n or REASON_n for an unknown number.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """virDomainState."""

    NOSTATE = "NOSTATE"
    RUNNING = "RUNNING"
    BLOCKED = "BLOCKED"
    PAUSED = "PAUSED"
    SHUTDOWN = "SHUTDOWN"
    SHUTOFF = "SHUTOFF"
    CRASHED = "CRASHED"
    PMSUSPENDED = "PMSUSPENDED"


class PauseReason(StrEnum):
    """virDomainPausedReason."""

    UNKNOWN = "UNKNOWN"
    USER = "USER"
    MIGRATION = "MIGRATION"
    SAVE = "SAVE"
    DUMP = "DUMP"
    IOERROR = "IOERROR"
    WATCHDOG = "WATCHDOG"
    FROM_SNAPSHOT = "FROM_SNAPSHOT"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    SNAPSHOT = "SNAPSHOT"
    CRASHED = "CRASHED"
    STARTING_UP = "STARTING_UP"
    POSTCOPY = "POSTCOPY"
    POSTCOPY_FAILED = "POSTCOPY_FAILED"
    API_ERROR = "API_ERROR"


class OffReason(StrEnum):
    """virDomainShutoffReason."""

    UNKNOWN = "UNKNOWN"
    SHUTDOWN = "SHUTDOWN"
    DESTROYED = "DESTROYED"
    CRASHED = "CRASHED"
    MIGRATED = "MIGRATED"
    SAVED = "SAVED"
    FAILED = "FAILED"
    FROM_SNAPSHOT = "FROM_SNAPSHOT"
    DAEMON = "DAEMON"


RAN = {OffReason.SHUTDOWN, OffReason.DESTROYED, OffReason.CRASHED, OffReason.SAVED, OffReason.MIGRATED}
"""The reasons that only a domain that has run can have. A start or an incoming migration that fails leaves FAILED."""
