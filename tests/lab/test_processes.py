"""What the lab starts ends when it should and only then, and says why it failed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import LabError
from lab.processes import Process, owner_of, reserve_port, sole_owner

Shell = Callable[[str], Process]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Makes a process that runs a shell script, which ends with the test."""
    made = []

    def make(script: str) -> Process:
        made.append(Process("shell", ["sh", "-c", script], log=tmp_path / "log"))
        return made[-1]

    yield make
    for process in made:
        process.kill()


def test_a_process_outlives_the_thread_that_started_it(shell: Shell, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = shell(f"touch {tmp_path}/ready; read line < {tmp_path}/fifo; exit 7")

    def start() -> None:
        process.start()
        process.wait_until((tmp_path / "ready").exists, timeout_s=30)

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    while Path(f"/proc/self/task/{starter.native_id}").exists():  # the kernel's thread ends a little after Python's
        os.sched_yield()
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)  # does not wait for a reader, which may be dead
    os.write(fifo, b"go on\n")
    with pytest.raises(LabError, match="exit code 7"):
        process.wait_until(lambda: False, timeout_s=30)
    os.close(fifo)


def test_one_that_ends_too_early_shows_the_end_of_its_log(shell: Shell, tmp_path: Path) -> None:
    process = shell("seq 20; echo no such colour >&2; exit 3")
    process.start()
    with pytest.raises(LabError) as failure:
        process.wait_until(lambda: False, timeout_s=30)
    first, *shown = str(failure.value).splitlines()
    assert first == f"shell ended with exit code 3 before it was ready; the end of {tmp_path}/log:"
    assert shown == [*map(str, range(7, 21)), "no such colour"]


def test_one_that_is_killed_too_early_names_the_signal(shell: Shell) -> None:
    process = shell("kill -KILL $$")
    process.start()
    with pytest.raises(LabError, match="ended with signal 9 before"):
        process.wait_until(lambda: False, timeout_s=30)


def test_one_that_is_never_ready_is_an_error_while_it_runs(shell: Shell) -> None:
    process = shell("exec sleep 300")
    process.start()
    with pytest.raises(LabError, match=r"^shell was not ready within 0\.1 s; "):
        process.wait_until(lambda: False, timeout_s=0.1)
    assert process.running


def test_one_that_ignores_being_asked_is_killed(shell: Shell, tmp_path: Path) -> None:
    process = shell(f"trap '' TERM; touch {tmp_path}/ready; while :; do sleep 300; done")
    process.start()
    process.wait_until((tmp_path / "ready").exists, timeout_s=30)
    process.stop(timeout_s=0.1)
    assert not process.running
    os.killpg(process.pid, signal.SIGKILL)  # the sleep


def test_one_that_does_not_end_by_itself_is_an_error_and_runs_on(shell: Shell, tmp_path: Path) -> None:
    process = shell(f"trap '' TERM; trap 'exit 7' USR1; touch {tmp_path}/ready; while :; do sleep 0.1; done")
    process.start()
    process.wait_until((tmp_path / "ready").exists, timeout_s=30)
    process.signal(signal.SIGTERM)
    with pytest.raises(LabError, match=r"^shell did not end within 0\.1 s; "):
        process.wait_until_ended(timeout_s=0.1)
    assert process.running
    process.signal(signal.SIGUSR1)
    assert process.wait_until_ended(timeout_s=30) == 7


def test_it_can_be_started_again_and_the_log_goes_on(shell: Shell, tmp_path: Path) -> None:
    process = shell("echo here")
    for _ in range(2):
        process.start()
        with pytest.raises(LabError, match="exit code 0"):
            process.wait_until(lambda: False, timeout_s=30)
    assert (tmp_path / "log").read_text() == "here\nhere\n"


def test_a_reserved_port_is_nobody_elses() -> None:
    with reserve_port() as held, reserve_port() as other:
        assert held.getsockname() != other.getsockname()
        with pytest.raises(ConnectionRefusedError):
            other.connect(held.getsockname())


def test_a_folder_is_free_again_when_its_owner_left(tmp_path: Path) -> None:
    with sole_owner(tmp_path):
        assert owner_of(tmp_path) == os.getpid()
    assert owner_of(tmp_path) is None
    with sole_owner(tmp_path):
        pass
