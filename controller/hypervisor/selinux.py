"""Whether SELinux lets this process use libvirt's socket, as far as the process can see."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from controller.runtime.checks import Finding, missing, not_visible, ok

CONTEXT = Path("/proc/self/attr/current")
ENFORCE = Path("/sys/fs/selinux/enforce")
ALLOW = (
    "kubectl -n virtsync-system patch daemonset virtsync-agent --type merge --patch"
    """ '{"spec":{"template":{"spec":{"securityContext":{"seLinuxOptions":{"type":"spc_t"}}}}}}'"""
)
"""The command that gives the Pods of the agents a type that SELinux does not confine."""


def check_selinux(path: Path | None) -> Finding:
    """Check that SELinux does not refuse the use of this socket; None: there is no socket."""
    return judge(_read(CONTEXT), _read(ENFORCE), "free" if path is None else _attempt(path))


def judge(context: str | None, enforce: str | None, attempt: str) -> Finding:
    """Return the finding for what this process can see. Pure.

    `context` is the security context of the process, and `enforce` is "1" if SELinux enforces its rules; None: not
    visible, as `enforce` in most containers. `attempt`: see `_attempt`.
    """
    if context is None or context.count(":") < 3:  # AppArmor has a profile there
        return ok("not in use") if enforce is None else not_visible("the security context of this process")
    if attempt == "refused":
        return missing(f"refuses the socket to this process ({context})", ALLOW)
    if enforce == "0":
        return ok("permissive: it refuses nothing")
    if attempt == "failed":
        return not_visible(f"the socket cannot be tried; this process has the context {context}")
    return ok(f"allows the socket to this process ({context})")


def connect(path: Path) -> None:
    """Connect to a socket and close the connection. Waits while too many clients
    wait already. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def _attempt(path: Path) -> str:
    """Connect to the socket: "free", "refused" although the mode of the socket allows its use, or "failed"."""
    try:
        connect(path)
    except PermissionError:
        return "refused" if os.access(path, os.W_OK) else "failed"
    except OSError:
        return "failed"
    return "free"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip("\0\n ")
    except OSError:  # the kernel has no such security module, or the container does not show it
        return None
