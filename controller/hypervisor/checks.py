"""Checks what an agent needs on its host: libvirt, its socket, the rights to use it, and the host lock.

Each check only looks: it opens and closes connections, and changes nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
from functools import partial
from pathlib import Path
from stat import S_IWGRP, filemode
from urllib.parse import parse_qs, urlsplit

import libvirt

from controller.hypervisor.host_facts import version_text
from controller.hypervisor.host_lock import lock_holder, socket_directory
from controller.hypervisor.pool import close
from controller.hypervisor.selinux import ALLOW, check_selinux, connect
from controller.hypervisor.text import error_text
from controller.runtime.checks import Check, Finding, missing, not_visible, ok

OLDEST_LIBVIRT = 8_000_000
"""libvirt 8.0.0, as libvirt encodes it. virtsync makes no call that is newer."""
START = "systemctl enable --now libvirtd  # on the host; with modular daemons: virtqemud.socket"
RESTART = "systemctl restart libvirtd  # on the host; VMs keep running. With modular daemons: virtqemud"
OVERLAY = "for the Pods: deploy/overlays/nonroot"
ALLOW_GROUP = f"systemctl edit libvirtd.socket  # on the host: SocketGroup=libvirt, SocketMode=0660; then {OVERLAY}"
IN_PROCESS = "not needed, because this libvirt runs in the process of the agent"
REFUSED_BY_POLKIT = {
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}


def checks(uri: str, *, observe_only: bool) -> list[Check]:
    """Return the checks of the host for an agent with this libvirt URI. `observe_only`: it needs no host lock."""
    directory = socket_directory(uri)
    path = directory and _socket_of(uri, directory)
    return [
        Check("socket directory", partial(check_directory, directory), START),
        Check("libvirt socket", partial(check_socket, path), START, needs="socket directory"),
        Check("SELinux", partial(check_selinux, path), START),
        Check("polkit", partial(check_polkit, uri, path), RESTART, needs="libvirt socket"),
        Check("libvirt", partial(check_libvirt, uri), RESTART, needs="libvirt socket"),
        Check("host lock", partial(check_lock, None if observe_only else directory), START, needs="socket directory"),
    ]


def check_directory(directory: Path | None) -> Finding:
    """Check that libvirt's socket directory is there and can be opened, because the host lock is on it."""
    if directory is None:
        return ok(IN_PROCESS)
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
    except FileNotFoundError:
        return missing(f"{directory} does not exist; in a Pod: it is not mounted", START)
    except OSError as error:
        about = f"{directory} cannot be opened by {_user()}: {error.strerror}"
        return missing(about, f"chmod o+rx {shlex.quote(str(directory))}  # on the host")
    return ok(str(directory))


def check_socket(path: Path | None) -> Finding:
    """Check that the socket exists, that this user may use it, and that a process accepts connections."""
    if path is None:
        return ok(IN_PROCESS)
    try:
        status = path.stat()
    except OSError as error:
        return missing(f"{path}: {error.strerror}", START)
    about = f"{path} ({filemode(status.st_mode)} {_user_name(status.st_uid)}:{_group_name(status.st_gid)})"
    try:
        connect(path)
    except PermissionError:
        return _refused(path, about, _group_name(status.st_gid) if status.st_mode & S_IWGRP else "")
    except OSError as error:
        return missing(f"{about}: {error.strerror}", START)
    return ok(about)


def _refused(path: Path, about: str, group: str) -> Finding:
    """Return the finding for a socket that refuses this user. `group` may use it; empty: no group may."""
    if os.access(path, os.W_OK):
        return missing(
            f"the mode of {about} allows its use, but a security module does not",
            f"{ALLOW}  # for SELinux; with AppArmor, appArmorProfile: {{type: Unconfined}}",
        )
    fix = ALLOW_GROUP
    if group not in {"", "root"}:
        fix = f"usermod --append --groups {group} {_user_name(os.getuid())}  # on the host; {OVERLAY}"
    return missing(f"{_user()} may not use {about}", fix)


def check_polkit(uri: str, path: Path | None) -> Finding:
    """Check that polkit authorizes this user, as far as libvirt says so."""
    if path is None:
        return ok(IN_PROCESS)
    if os.getuid() == 0:
        return ok("libvirt does not ask polkit about uid 0")
    try:
        close(_opened(uri))
    except libvirt.libvirtError as error:
        if error.get_error_code() in REFUSED_BY_POLKIT:
            join = f"usermod --append --groups libvirt {_user_name(os.getuid())}  # on the host; {OVERLAY}"
            return missing(f"{_user()}: {error_text(error)}", join)
        return not_visible("libvirt has refused the connection for another reason")
    return ok(f"libvirt accepts {_user()}")


def check_libvirt(uri: str) -> Finding:
    """Check that libvirt answers, and that its version is supported."""
    try:
        connection = _opened(uri)
        try:
            version, hypervisor = connection.getLibVersion(), connection.getVersion()
            kind = connection.getType()
        finally:
            close(connection)
    except libvirt.libvirtError as error:
        return missing(error_text(error), RESTART)
    if version < OLDEST_LIBVIRT:
        found = f"libvirt {version_text(version)}: virtsync needs {version_text(OLDEST_LIBVIRT)} or newer"
        return missing(found, "apt-get install libvirt-daemon-system  # on the host")
    return ok(f"libvirt {version_text(version)}, {kind} {version_text(hypervisor)}, at {uri}")


def check_lock(directory: Path | None) -> Finding:
    """Check that the host lock is free, or that an agent holds it. `directory` is None if no lock is needed."""
    if directory is None:
        return ok("not needed, because this agent acts on no VM, or on a libvirt in its own process")
    holder = lock_holder(directory)
    if holder is None:
        return ok(f"free: {directory}")
    if not holder.pid:
        return not_visible(f"a process of another container or of the host holds {directory}; there: lslocks")
    about = f"process {holder.pid} ({holder.command})"
    if holder.is_agent:
        return ok(f"held by this node's agent: {about}")
    return missing(f"{about} holds the lock on {directory}", f"kill {holder.pid}  # if that process may end")


def _opened(uri: str) -> libvirt.virConnect:
    """Open a connection. Has no timeout: the caller runs on a thread that may hang. Raises libvirtError."""
    # Without this handler, libvirt prints each error, although libvirt-python also raises it.
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt.open(uri)


def _socket_of(uri: str, directory: Path) -> Path:
    """Return the socket to which libvirt's client library connects: that of the modular daemon if it exists."""
    parts = urlsplit(uri)
    if named := parse_qs(parts.query).get("socket"):
        return Path(named[0])
    modular = directory / f"virt{parts.scheme.partition('+')[0]}d-sock"
    return modular if modular.exists() else directory / "libvirt-sock"


def _user() -> str:
    return f"uid {os.getuid()}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
