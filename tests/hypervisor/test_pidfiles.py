"""Which QEMUs are known to live on after libvirt has removed their pid files."""

import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from controller.hypervisor import pidfiles
from controller.hypervisor.pidfiles import PidFiles, raise_file_limit
from controller.policy.view import Qemu

# Locks the file that it is given, as a QEMU does, until its standard input ends.
QEMU = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
FIRST, SECOND = uuid4(), uuid4()
Begin = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begin a process that has its pid file as a QEMU has."""
    with ExitStack() as ends:

        def begin(name: str) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-c", QEMU, str(tmp_path / f"{name}.pid")]
            qemu = ends.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert qemu.stdout
            assert qemu.stdout.readline()
            return qemu

        yield begin


@pytest.fixture
def files(tmp_path: Path) -> PidFiles:
    return PidFiles(tmp_path)


def end(qemu: "subprocess.Popen[bytes]") -> None:
    qemu.kill()
    qemu.wait()


def opened(folder: Path) -> int:
    """How many files of this folder are open in this process."""
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(link).startswith(str(folder)) for link in links)


def test_a_qemu_that_was_seen_running_is_known_to_live_whoever_destroyed_it(
    files: PidFiles, begin: Begin, tmp_path: Path
) -> None:
    qemu = begin("web")
    assert files.watch_running(FIRST, "web")
    (tmp_path / "web.pid").unlink()  # as libvirt does
    assert files.watch_running(FIRST, "web") is None
    assert files.lives_on(FIRST)
    assert files.qemu(FIRST, "web") is Qemu.ALIVE
    end(qemu)
    assert not files.lives_on(FIRST)
    assert files.qemu(FIRST, "web") is Qemu.GONE
    assert opened(tmp_path) == 0


@pytest.mark.parametrize("watched", ["killed", "running"])
def test_a_domain_that_is_defined_again_with_another_uuid_has_the_same_qemu(
    files: PidFiles, begin: Begin, tmp_path: Path, watched: str
) -> None:
    qemu = begin("web")
    if watched == "killed":
        files.watch(FIRST, "web")
    else:
        files.watch_running(FIRST, "web")
    (tmp_path / "web.pid").unlink()
    assert files.qemu(SECOND, "web") is Qemu.ALIVE
    assert files.lives_on(SECOND, "web")
    assert files.lives_on(None, "web")
    assert files.qemu(SECOND, "db") is Qemu.GONE
    assert not files.lives_on(SECOND, "db")
    assert not files.lives_on(SECOND)
    end(qemu)
    assert files.qemu(SECOND, "web") is Qemu.GONE
    assert not files.lives_on(SECOND, "web")
    assert opened(tmp_path) == 0


def test_a_domain_that_was_renamed_is_found_by_its_new_name(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    former = begin("web")
    files.watch_running(FIRST, "web")
    end(former)
    (tmp_path / "web.pid").rename(tmp_path / "www.pid")
    begin("www")
    files.watch(FIRST, "www")
    assert files.lives_on(None, "www")
    assert not files.lives_on(None, "web")
    assert files.qemu(SECOND, "www") is Qemu.ALIVE
    assert files.qemu(SECOND, "web") is Qemu.GONE


def test_two_domains_that_had_one_name_are_both_watched(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    qemus = []
    for uuid in (FIRST, SECOND):
        qemus.append(begin("web"))
        files.watch_running(uuid, "web")
        (tmp_path / "web.pid").unlink()
    third = uuid4()
    for qemu in qemus:
        assert files.qemu(third, "web") is Qemu.ALIVE
        end(qemu)
    assert files.qemu(third, "web") is Qemu.GONE


def test_who_came_after_the_destroy_does_not_know(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    begin("web")
    (tmp_path / "web.pid").unlink()
    assert files.qemu(FIRST, "web") is Qemu.GONE


def test_one_file_is_kept_open_of_a_domain_that_runs(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    qemu = begin("web")
    for _ in range(3):
        files.watch_running(FIRST, "web")
        files.release(FIRST)
        assert opened(tmp_path) == 1
    end(qemu)
    (tmp_path / "web.pid").unlink()
    begin("web")
    files.watch_running(FIRST, "web")
    assert opened(tmp_path) == 1, "the first QEMU has ended"


def test_each_qemu_that_lives_is_watched(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    qemus = []
    for _ in range(2):
        qemus.append(begin("web"))
        files.watch_running(FIRST, "web")
        (tmp_path / "web.pid").unlink()
    end(qemus[1])
    assert files.lives_on(FIRST)
    end(qemus[0])
    assert not files.lives_on(FIRST)


def test_an_observation_of_a_domain_whose_file_is_open_makes_one_system_call(
    files: PidFiles, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("web")
    since = files.watch_running(FIRST, "web")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened again"))
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: pytest.fail("lock read again"))
    assert files.watch_running(FIRST, "web") == since


def test_a_file_that_cannot_be_opened_is_not_watched(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    begin("web")
    (tmp_path / "loop.pid").symlink_to(tmp_path / "loop.pid")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert files.watch_running(FIRST, "web"), "when it was started is known nevertheless"
        files.watch(SECOND, "web")
    assert files.watch_running(uuid4(), "loop") is None
    assert opened(tmp_path) == 0
    (tmp_path / "web.pid").unlink()
    assert files.qemu(FIRST, "web") is Qemu.GONE
    assert files.qemu(SECOND, "web") is Qemu.UNSURE, "it was killed"


def refuse(*_: object) -> int:
    raise PermissionError


def test_a_new_qemu_that_is_watched_ends_the_doubt_about_an_earlier_one(
    files: PidFiles, begin: Begin, tmp_path: Path
) -> None:
    files.watch(FIRST, "web")  # it has no pid file
    assert files.qemu(FIRST, "web") is Qemu.UNSURE
    (tmp_path / "web.pid").touch()
    files.watch_running(FIRST, "web")
    assert files.qemu(FIRST, "web") is Qemu.UNSURE, "nothing locks the file"
    end_of = begin("web")
    files.watch_running(FIRST, "web")
    assert files.qemu(FIRST, "web") is Qemu.ALIVE
    end(end_of)
    assert files.qemu(FIRST, "web") is Qemu.GONE


def test_the_files_of_domains_that_nobody_observes_are_closed(files: PidFiles, begin: Begin, tmp_path: Path) -> None:
    qemus = {uuid: begin(name) for uuid, name in ((FIRST, "web"), (SECOND, "db"))}
    for uuid, name in ((FIRST, "web"), (SECOND, "db")):
        files.watch_running(uuid, name)
    end(qemus[FIRST])
    files.release_all_but({FIRST, SECOND})
    assert opened(tmp_path) == 2
    files.release_all_but(set())
    assert opened(tmp_path) == 1
    assert files.lives_on(SECOND)


def test_some_descriptors_are_left_for_everything_else(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (pidfiles.RESERVED_FILES + 1, hard))
    files, third = PidFiles(tmp_path), uuid4()
    for uuid, name in ((FIRST, "web"), (SECOND, "db"), (third, "mail")):
        begin(name)
        assert files.watch_running(uuid, name)
    assert opened(tmp_path) == 1
    files.watch(third, "mail")  # a QEMU that is killed is always watched
    for name in ("web", "db", "mail"):
        (tmp_path / f"{name}.pid").unlink()
    assert [files.lives_on(uuid) for uuid in (FIRST, SECOND, third)] == [True, False, True]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 524288), (8192, 524288)),
        ((1024, 4096), (4096, 4096)),
        ((1024, resource.RLIM_INFINITY), (8192, resource.RLIM_INFINITY)),
        ((65536, 524288), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
        ((4096, 4096), None),
    ],
)
def test_the_limit_of_open_files_is_raised(
    before: tuple[int, int], after: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    raise_file_limit()
    assert limits == ([after] if after else [])


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit()


def test_a_name_that_makes_no_path_has_no_file(files: PidFiles) -> None:
    assert files.watch_running(FIRST, "no\0path") is None
