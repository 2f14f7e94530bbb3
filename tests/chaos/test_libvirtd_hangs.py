"""libvirtd hangs while many threads ask it: before 10.4 libvirt's own client may then end the process."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.libvirtd import Libvirtd

LOST_AND_FOUND = """
import sys, threading
from uuid import uuid4
from controller.runtime.errors import Transient
from controller.hypervisor.connection import QUERIES_AT_ONCE, LibvirtConnection
from controller.hypervisor.host import LibvirtHost
from controller.api.virtualmachine import Address

def ask():
    while not ended.is_set():
        try:
            host.observe(Address(uuid=uuid4(), name="nobody"))
        except Transient:
            ended.wait(0.1)

ended = threading.Event()
hypervisor = LibvirtConnection(
    sys.argv[1],
    changed=lambda *_: None,
    on_connected=lambda: print("connected", flush=True),
    on_lost=lambda: print("lost", flush=True),
)
host = LibvirtHost(hypervisor, blocked=str)
threads = [threading.Thread(target=ask, daemon=True) for _ in range(QUERIES_AT_ONCE)]
for thread in threads:
    thread.start()
hypervisor.start()
sys.stdin.read()
# A thread that is still writing to stdout when Python ends makes Python abort.
ended.set()
for thread in threads:
    thread.join()
hypervisor.close()
"""


@contextmanager
def many_threads_asking(libvirtd: Libvirtd) -> Iterator[subprocess.Popen[str]]:
    """A process of which they are the threads; it says when it is connected, and when no longer."""
    command = [sys.executable, "-c", LOST_AND_FOUND, libvirtd.uri]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        yield asking
        assert asking.stdin
        asking.stdin.close()
        assert asking.wait() == 0


def until_said(asking: subprocess.Popen[str], word: str) -> None:
    assert asking.stdout
    for line in asking.stdout:
        if line == f"{word}\n":
            return
    pytest.fail(f"the process ended with {asking.wait()} before it was {word}")


def test_libvirtd_hangs_while_many_threads_ask() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="virtsync-") as folder,
        Libvirtd(Path(folder)) as libvirtd,
        many_threads_asking(libvirtd) as asking,
    ):
        until_said(asking, "connected")
        libvirtd.pause()
        until_said(asking, "lost")
        libvirtd.resume()
        until_said(asking, "connected")
