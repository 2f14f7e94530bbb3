"""The options of `virtsync enroll`; tests/integration/test_enroll.py runs it on a real API server."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from controller.cli import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Missing argument 'HOST'"),
        ("Kvm_7", "'Kvm_7' cannot be the name of a Node"),
        ("virtsync-manager", "the Lease of the manager's leader has this name"),
        (".".join(["a" * 60] * 4), "is too long for the name of a host (at most 238)"),
        ("kvm-7 --lifetime 9m", "must be between 600s"),
        ("kvm-7 --lifetime 721h", "--lifetime is at most 720h"),
        ("kvm-7 --namespace a.b", "cannot be the name of a namespace"),
        ("kvm-7 --manifests --revoke", "Give either --manifests or --revoke"),
        ("kvm-7 --kubeconfig /nowhere", "'/nowhere' does not exist"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words: str, told: str) -> None:
    ended = CliRunner().invoke(main, ["enroll", *words.split()])
    assert ended.exit_code == 2
    assert told in " ".join(ended.output.split())


def test_the_manifests_need_no_cluster() -> None:
    ended = CliRunner().invoke(main, ["enroll", "kvm-7", "-n", "kvm", "--manifests"], env={"KUBECONFIG": "/nowhere"})
    assert ended.exit_code == 0
    assert ended.output.count("virtsync-agent.kvm-7") > 5
    assert "namespace: kvm\n" in ended.output


@pytest.mark.parametrize("command", ["enroll", "import"])
def test_it_runs_on_a_machine_without_libvirt(command: str) -> None:
    """docs/install.md leaves libvirt-python out on the machine of an administrator, because it has to be compiled."""
    without = "import sys; sys.modules['libvirt'] = None; from controller.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, command, "--help"], check=True, capture_output=True, text=True
    )
    assert command in done.stdout
