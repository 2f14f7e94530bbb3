"""How each command ends if a standard stream is closed or full: with the documented exit code, and no traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.server import Request, kubeconfig_of, serving

PROGRAMS = {
    "virtsync": "from controller.cli import main; main()",
    "kubectl-virtsync": "from controller.cli.plugin import main; main()",
    "kubectl_complete-virtsync": "from controller.cli.plugin import complete; complete()",
}
READING = ["status", "status -o json", "status -o yaml", "drift", "hosts", "top"]
VM = {
    "apiVersion": "virtsync.dev/v1alpha1",
    "kind": "VirtualMachine",
    "metadata": {"namespace": "vms", "name": "web-1"},
}
HOST = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": "node-a"}}


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of an API server that has a VM and a host."""

    def answer(request: Request) -> None:
        kind, one = ("Hypervisor", HOST) if "hypervisors" in request.path else ("VirtualMachine", VM)
        request.reply({"kind": f"{kind}List", "metadata": {"resourceVersion": "5"}, "items": [one]})

    with serving(answer) as url:
        yield kubeconfig_of(url, tmp_path)


def run(words: str, redirection: str) -> tuple[int, str]:
    """Run a command line in a shell. Return the exit code and stderr."""
    program, *rest = words.split()
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", PROGRAMS[program], *rest],
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("command", READING)
def test_no_command_needs_stdin(command: str, kubeconfig: Path) -> None:
    code, said = run(f"kubectl-virtsync {command} --kubeconfig {kubeconfig}", "<&-")
    assert (code, said) == (1 if command == "drift" else 0, "")


@pytest.mark.parametrize("command", [*READING, "status web-1"])
def test_a_stdout_that_is_closed_is_an_error(command: str, kubeconfig: Path) -> None:
    code, said = run(f"kubectl-virtsync {command} --kubeconfig {kubeconfig}", ">&-")
    assert (code, said) == (2, "Error: the output cannot be written: Bad file descriptor.\n")


@pytest.mark.parametrize("command", READING)
def test_a_stderr_that_is_closed_is_none(command: str, kubeconfig: Path) -> None:
    code, _ = run(f"kubectl-virtsync {command} --kubeconfig {kubeconfig}", "2>&-")
    assert code == (1 if command == "drift" else 0)


def test_an_error_ends_with_its_exit_code_without_any_stream(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("{}")
    assert run(f"kubectl-virtsync status --kubeconfig {empty}", "<&- >&- 2>&-") == (2, "")


def test_an_import_and_an_enrollment_need_only_the_stream_that_they_use(kubeconfig: Path) -> None:
    words = f"virtsync import --namespace vms --kubeconfig {kubeconfig}"
    code, said = run(words, "<&-")
    assert (code, said.splitlines()[-1]) == (2, "Error: no host can be imported.")
    assert run(f"virtsync enroll node-b --manifests --kubeconfig {kubeconfig}", ">&-") == (
        2,
        "Error: the output cannot be written: Bad file descriptor.\n",
    )


@pytest.mark.parametrize(
    "words",
    [
        "kubectl-virtsync --help",
        "kubectl-virtsync --version",
        "kubectl-virtsync status --help",
        "kubectl-virtsync maintenance start --help",
        "kubectl-virtsync completion bash",
        "virtsync --help",
        "virtsync --version",
        "virtsync agent --help",
        "virtsync check --help",
        "virtsync enroll --help",
        "virtsync import --help",
        "virtsync manager --help",
        "virtsync vm --help",
        "virtsync vm status --help",
        "virtsync vm maintenance end --help",
    ],
)
def test_a_help_that_cannot_be_written_is_an_error(words: str) -> None:
    assert run(words, ">/dev/full") == (2, "Error: the output cannot be written: No space left on device.\n")


@pytest.mark.parametrize("words", ["kubectl_complete-virtsync st", "kubectl-virtsync __complete st"])
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_a_completion_that_cannot_be_written_says_nothing(words: str, redirection: str) -> None:
    assert run(words, redirection) == (2, "")


@pytest.mark.parametrize("program", ["virtsync", "kubectl-virtsync"])
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_a_completion_for_a_shell_that_cannot_be_written_says_nothing(
    program: str, redirection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is installed, the name of the program is in sys.argv[0]; with -c it is not.
    monkeypatch.setitem(PROGRAMS, "virtsync", "from controller.cli import main; main(prog_name='virtsync')")
    monkeypatch.setenv(f"_{program.upper().replace('-', '_')}_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"{program} ")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run(program, redirection) == (2, "")


def test_a_help_that_nobody_reads_ends_as_other_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PROGRAMS["kubectl-virtsync"], "--help"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")
