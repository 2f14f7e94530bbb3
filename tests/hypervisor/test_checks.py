"""What the checks of a host say of each state that this machine cannot be brought into for a test."""

import os
import socket
from pathlib import Path

import pytest

from controller.hypervisor.checks import check_lock, check_socket, checks
from controller.hypervisor.host_lock import AGENT_COMMAND, HostLock, lock_holder, lock_name
from controller.hypervisor.selinux import ALLOW, judge
from controller.runtime.checks import State, missing, not_visible, ok

CONTAINER = "system_u:system_r:container_t:s0:c1,c2"


@pytest.mark.parametrize(
    ("context", "enforce", "attempt", "finding"),
    [
        (None, None, "free", ok("not in use")),
        ("cri-containerd.apparmor.d (enforce)", None, "refused", ok("not in use")),
        (None, "1", "free", not_visible("the security context of this process")),
        (CONTAINER, None, "refused", missing(f"refuses the socket to this process ({CONTAINER})", ALLOW)),
        (CONTAINER, "1", "refused", missing(f"refuses the socket to this process ({CONTAINER})", ALLOW)),
        (CONTAINER, "0", "free", ok("permissive: it refuses nothing")),
        (CONTAINER, "1", "free", ok(f"allows the socket to this process ({CONTAINER})")),
        (
            CONTAINER,
            None,
            "failed",
            not_visible(f"the socket cannot be tried; this process has the context {CONTAINER}"),
        ),
    ],
)
def test_selinux_is_judged_by_what_is_visible(
    context: str | None, enforce: str | None, attempt: str, finding: object
) -> None:
    assert judge(context, enforce, attempt) == finding


def test_a_libvirt_in_the_process_needs_no_socket_and_no_lock() -> None:
    found = {check.name: check.run() for check in checks("test:///default", observe_only=False)}
    assert {finding.state for finding in found.values()} == {State.OK}
    assert found["libvirt"].detail.startswith("libvirt ")


def test_a_socket_on_which_nobody_listens_is_missing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "sock"))
    finding = check_socket(tmp_path / "sock")
    assert finding.state is State.MISSING
    assert finding.detail.endswith(": Connection refused")


def test_the_modular_daemon_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "libvirt").mkdir()
    found = {check.name: check for check in checks("qemu:///session", observe_only=False)}
    assert found["libvirt socket"].run().detail.startswith(f"{tmp_path}/libvirt/libvirt-sock: ")
    (tmp_path / "libvirt/virtqemud-sock").touch()
    found = {check.name: check for check in checks("qemu:///session", observe_only=False)}
    assert found["libvirt socket"].run().detail.startswith(f"{tmp_path}/libvirt/virtqemud-sock ")


def test_observe_only_needs_no_lock(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/sock"
    lock = HostLock(tmp_path)
    assert lock.acquire()
    states = [
        next(check for check in checks(uri, observe_only=observe_only) if check.name == "host lock").run().state
        for observe_only in (True, False)
    ]
    lock.release()
    assert states == [State.OK, State.MISSING]


def test_a_look_at_the_lock_leaves_it_as_it_is(tmp_path: Path) -> None:
    lock = HostLock(tmp_path)
    assert lock_holder(tmp_path) is None
    assert lock.acquire()
    holder = lock_holder(tmp_path)
    assert holder
    assert holder.pid == str(os.getpid())
    assert "pytest" in holder.command
    assert lock.held
    assert lock.name == lock_name(tmp_path)
    lock.release()
    assert check_lock(tmp_path).detail == f"free: {tmp_path}"


@pytest.mark.parametrize(
    ("command", "is_agent"),
    [
        ("/usr/bin/python3 /usr/bin/virtsync agent", True),
        ("virtsync agent --node-name a", True),
        ("python3 -m controller agent --node-name a", True),
        ("virtsync check", False),
        ("virtsync agents", False),
        ("/usr/bin/notvirtsync agent", False),
        ("flock /run/libvirt cat", False),
    ],
)
def test_an_agent_is_known_by_its_command_line(command: str, is_agent: bool) -> None:  # noqa: FBT001
    assert bool(AGENT_COMMAND.search(command)) is is_agent
