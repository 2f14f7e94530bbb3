"""What systemd hears of a process that works, and of one that does not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from controller.runtime.watchdog import ALIVE, Watchdog

HANG_S = 30.0
PERIOD_S = 0.3


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """What systemd listens to; an abstract name begins with @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        listener.settimeout(HANG_S)
        yield listener


@contextmanager
def running(watchdog: Watchdog) -> Iterator[None]:
    watchdog.start()
    try:
        yield
    finally:
        watchdog.close()


def of_systemd(address: str, **variables: str) -> dict[str, str]:
    """The variables that systemd sets."""
    given = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(PERIOD_S * 1e6)), "WATCHDOG_PID": str(os.getpid())}
    return given | variables


def drain(listener: socket.socket) -> None:
    """Take what was on its way."""
    time.sleep(PERIOD_S)
    listener.settimeout(0)
    with suppress(BlockingIOError):
        while listener.recv(100):
            pass


def hears_nothing(listener: socket.socket) -> bool:
    """Whether nothing comes for as long as systemd would wait."""
    listener.settimeout(PERIOD_S)
    try:
        return not listener.recv(100)
    except TimeoutError:
        return True


@pytest.mark.parametrize("abstract", [False, True], ids=["file", "abstract"])
def test_systemd_hears_a_process_several_times_in_each_period(tmp_path: Path, *, abstract: bool) -> None:
    address = f"@virtsync-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    began_s = time.monotonic()
    with listening(address) as listener, running(Watchdog(list, of_systemd(address))):
        assert {listener.recv(100) for _ in range(4)} == {ALIVE}
        assert 2 * PERIOD_S / 3 < time.monotonic() - began_s < HANG_S


def test_systemd_hears_nothing_after_a_part_has_died_and_again_if_it_lives(tmp_path: Path) -> None:
    dead: list[str] = []
    address = str(tmp_path / "notify")
    with listening(address) as listener, running(Watchdog(lambda: list(dead), of_systemd(address))):
        assert listener.recv(100) == ALIVE
        dead.append("workers")
        drain(listener)
        assert hears_nothing(listener)
        dead.clear()
        listener.settimeout(HANG_S)
        assert listener.recv(100) == ALIVE


def test_a_process_that_ends_is_silent(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as listener:
        with running(Watchdog(list, of_systemd(address))):
            assert listener.recv(100) == ALIVE
        drain(listener)
        assert hears_nothing(listener)


@pytest.mark.parametrize(
    "missing",
    [{"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_PID": "1"}],
    ids=["no socket", "no period", "no watchdog", "of another process"],
)
def test_without_a_watchdog_of_systemd_nothing_happens(tmp_path: Path, missing: dict[str, str]) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as listener, running(Watchdog(list, of_systemd(address, **missing))):
        assert hears_nothing(listener)


def test_in_a_pod_nothing_happens() -> None:
    with running(Watchdog(list, {})):
        pass


def test_a_systemd_that_does_not_listen_ends_nothing(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with running(Watchdog(list, of_systemd(address))):
        time.sleep(PERIOD_S)
        with listening(address) as listener:
            assert listener.recv(100) == ALIVE
