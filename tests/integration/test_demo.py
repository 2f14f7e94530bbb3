"""The demo tells its story to the end, says so when it cannot, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HANG_LIMIT_S = 150


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts its own folder; the folders of pytest are too long for the sockets of a libvirtd."""
    with tempfile.TemporaryDirectory(prefix="d") as name:
        yield Path(name)


@pytest.fixture
def demo(folder: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """The demo, told to a pipe; with the variables that the test gives."""
    environment = os.environ | {"TMPDIR": str(folder), "KEEP": "", "FLEET": "", "PYTHONPATH": str(ROOT / "tools")}
    environment |= getattr(request, "param", {})
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "demo"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        yield running
        running.kill()


def read_until(demo: subprocess.Popen[str], words: str) -> str:
    """What the demo says up to the line that has these words."""
    assert demo.stdout
    said = ""
    for line in demo.stdout:
        said += line
        if words in line:
            return said
    pytest.fail(f"{words!r} is not in what the demo said:\n{said}")


def processes_of(folder: Path) -> dict[int, str]:
    """The processes that were started with something of a folder, and their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in command:
            found[int(path.parent.name)] = command
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert processes_of(folder) == {}
    assert list(folder.iterdir()) == []
    assert str(folder) not in Path("/proc/self/mounts").read_text()


def test_the_demo_sees_every_step(demo: subprocess.Popen[str], folder: Path) -> None:
    said, _ = demo.communicate(timeout=HANG_LIMIT_S)
    assert demo.returncode == 0, said
    assert re.findall(r"^(\d)\. ", said, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    assert re.search(r" web-1: Crashed \(cause: Crash\), Starting +\[\d+\.\d ms after libvirt's event\]", said)
    assert re.search(r"^   db-1 +Stopped +Running +False +Settling ", said, re.MULTILINE)
    assert "Every step was seen" in said
    assert_nothing_is_left(folder)


@pytest.mark.long
@pytest.mark.parametrize("demo", [{"FLEET": "1"}], indirect=True, ids=["fleet"])
def test_the_demo_of_two_hosts_sees_every_step(demo: subprocess.Popen[str], folder: Path) -> None:
    said, _ = demo.communicate(timeout=HANG_LIMIT_S)
    assert demo.returncode == 0, said
    assert re.findall(r"^(\d+)\. ", said, re.MULTILINE) == [str(number) for number in range(1, 10)]
    steps = re.split(r"^\d+\. ", said, flags=re.MULTILINE)
    assert re.search(r"^   metadata:\n     name: app-1$", steps[7], re.MULTILINE)
    assert re.search(r"^   node-b +True +Active +1 +0 +1 +0 +Shutdown ", steps[8], re.MULTILINE)
    hosts = re.findall(r"^   node-b +(True|Unknown) +(\w+) +1 ", steps[9], re.MULTILINE)
    assert hosts == [("Unknown", "AgentUnreachable"), ("True", "Active")]
    assert re.search(r"^   app-1 +Running +Running +Unknown +AgentUnreachable ", steps[9], re.MULTILINE)
    assert "Every step was seen" in said
    assert_nothing_is_left(folder)


@pytest.mark.parametrize("demo", [{"KEEP": "1"}], indirect=True, ids=["keep"])
def test_the_demo_can_be_gone_on_with_by_hand(demo: subprocess.Popen[str], folder: Path) -> None:
    said = read_until(demo, "kubectl describe")
    export = re.search(r"^   (export KUBECONFIG=.*)$", said, re.MULTILINE)
    assert export, said
    listed = subprocess.run(
        ["sh", "-c", f"{export[1]}; kubectl get kvm"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "legacy-1" in listed.stdout, listed.stderr
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=HANG_LIMIT_S)
    assert demo.returncode == 0, said
    assert_nothing_is_left(folder)


def test_the_demo_fails_in_a_sentence_when_a_step_does_not_come(demo: subprocess.Popen[str], folder: Path) -> None:
    read_until(demo, "1. First sight")
    (agent,) = (pid for pid, command in processes_of(folder).items() if "controller" in command)
    os.kill(agent, signal.SIGTERM)
    said, _ = demo.communicate(timeout=HANG_LIMIT_S)
    assert demo.returncode == 1
    assert "Error: The agent of node-a ended; the end of the log, agent.log:" in said.splitlines()
    assert "Traceback" not in said
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_nothing_is_left_when_the_demo_is_interrupted(
    demo: subprocess.Popen[str], folder: Path, end: signal.Signals, code: int
) -> None:
    read_until(demo, "1. First sight")
    demo.send_signal(end)
    said, _ = demo.communicate(timeout=HANG_LIMIT_S)
    assert demo.returncode == code, said
    assert "Every step was seen" not in said
    assert "Traceback" not in said
    assert_nothing_is_left(folder)
