"""The control plane is real, honours what the user chose, and leaves nothing behind."""

import base64
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from lab import LabError, binaries, gomodule
from lab.controlplane import COMPONENTS, ControlPlane
from lab.processes import owner_of

HANG_LIMIT_S = 60
RUN = [sys.executable, "-m", "lab", "controlplane"]
ENV = os.environ | {"PYTHONPATH": str(binaries.MODULE.parent)}


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs a control plane in tmp_path."""
    command = [*RUN, "run", str(tmp_path)]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def processes_of(folder: Path) -> set[int]:
    """All processes whose command line names a folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in command:
            found.add(int(process.name))
    return found


def wait_until_gone(pids: set[int]) -> None:
    """Return when every process ended; fail when one hangs."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([process], [], [], HANG_LIMIT_S)[0]
        os.close(process)
        assert ended, f"process {pid} still runs"


def test_kubectl_and_server_are_the_version_that_the_go_module_asks_for(controlplane: ControlPlane) -> None:
    versions = json.loads(controlplane.kubectl("version", "--output=json").stdout)
    assert versions["serverVersion"]["gitVersion"] == "v1.35.4"
    assert versions["clientVersion"]["gitVersion"] == "v1.35.4"


def test_the_kubeconfig_verifies_the_server(controlplane: ControlPlane, tmp_path: Path) -> None:
    other_ca = trustme.CA().cert_pem.bytes()
    config = json.loads(controlplane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(other_ca).decode()
    distrustful = tmp_path / "kubeconfig"
    distrustful.write_text(json.dumps(config))
    refused = controlplane.kubectl("get", "--raw=/readyz", f"--kubeconfig={distrustful}", check=False)
    assert "certificate signed by unknown authority" in refused.stderr


def test_a_service_account_may_only_what_its_role_allows(controlplane: ControlPlane) -> None:
    role = "service-account-test"
    controlplane.kubectl("create", "clusterrole", role, "--verb=list", "--resource=configmaps")
    as_reader = f"--kubeconfig={controlplane.service_account(role, 'reader', cluster_role=role)}"
    whoami = controlplane.kubectl("auth", "whoami", "--output=jsonpath={.status.userInfo.username}", as_reader)
    assert whoami.stdout == "system:serviceaccount:service-account-test:reader"
    controlplane.kubectl("get", "configmaps", as_reader)
    refused = controlplane.kubectl("create", "configmap", "forbidden", as_reader, check=False)
    assert "cannot create resource" in refused.stderr


def test_a_failed_kubectl_says_why(controlplane: ControlPlane) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        controlplane.kubectl("get", "namespace", "no-such-namespace")
    assert failure.value.__notes__ == ['Error from server (NotFound): namespaces "no-such-namespace" not found\n']


def test_data_and_address_survive_the_death_of_a_component(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as controlplane:
        url = controlplane.url
        controlplane.kubectl("create", "namespace", "survivor")
        for name in COMPONENTS:
            pid = controlplane.pid(name)
            controlplane.kill(name)
            controlplane.start(name)
            assert controlplane.pid(name) != pid
        controlplane.start()  # ready again after etcd was away
        assert controlplane.url == url
        controlplane.kubectl("get", "namespace", "survivor")


def test_a_restored_backup_gives_resource_versions_out_anew(tmp_path: Path) -> None:
    def version(name: str) -> int:
        return int(controlplane.kubectl("get", "namespace", name, "-o=jsonpath={.metadata.resourceVersion}").stdout)

    with ControlPlane(tmp_path / "state") as controlplane:
        controlplane.kubectl("create", "namespace", "before")
        with controlplane.down():
            controlplane.back_up(tmp_path / "backup")
        for number in range(20):
            controlplane.kubectl("create", "namespace", f"after-{number}")
        last = version("after-19")
        with controlplane.down():
            controlplane.restore(tmp_path / "backup")
        assert controlplane.kubectl("get", "namespace", "before", "after-19", check=False).returncode
        controlplane.kubectl("create", "namespace", "anew")
        assert version("before") < version("anew") < last


def test_nothing_is_left_after_stop(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as controlplane:
        pids = {controlplane.pid(name) for name in COMPONENTS}
        assert processes_of(tmp_path) == pids
    assert processes_of(tmp_path) == set()


def test_nothing_is_left_when_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "etcd").write_text("not a folder")
    with pytest.raises(LabError, match=r"(?s)^etcd ended with .* before it was ready; the end of .*/etcd\.log:\n.+"):
        ControlPlane(tmp_path).start()
    assert processes_of(tmp_path) == set()
    assert owner_of(tmp_path) is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_owner_is_told_to_end(
    tmp_path: Path, owner: subprocess.Popen[str], how: signal.Signals
) -> None:
    pids = processes_of(tmp_path)
    assert len(pids) == 1 + len(COMPONENTS)
    owner.send_signal(how)
    wait_until_gone(pids)
    assert processes_of(tmp_path) == set()
    assert owner_of(tmp_path) is None


def test_a_folder_has_one_owner(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    with pytest.raises(LabError, match=f"^{tmp_path} is in use by process {owner.pid}\\.$"):
        ControlPlane(tmp_path).start()
    assert ControlPlane(tmp_path).kubeconfig.exists(), "the loser took something from the owner"


def test_up_and_down_may_be_repeated(tmp_path: Path) -> None:
    def lab(*arguments: str) -> str:
        command = [*RUN, *arguments, str(tmp_path)]
        return subprocess.run(command, env=ENV, capture_output=True, text=True, check=True, timeout=HANG_LIMIT_S).stdout

    try:
        assert lab("up") == lab("up") == f"export KUBECONFIG={tmp_path}/kubeconfig\n"
        assert lab("kubeconfig") == f"{tmp_path}/kubeconfig\n"
    finally:
        lab("down")
    lab("down")
    assert processes_of(tmp_path) == set()


def test_the_kubeconfig_of_nothing_says_how_to_start_it(tmp_path: Path) -> None:
    done = subprocess.run([*RUN, "kubeconfig", str(tmp_path)], env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    start = f"python -m lab controlplane up {tmp_path}"
    assert done.stderr == f"Error: No control plane runs in {tmp_path}: start it with `{start}`.\n"


def test_binaries_are_taken_from_kubebuilder_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in binaries.COMMANDS:
        (tmp_path / name).symlink_to(binaries.find_assets() / name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert ControlPlane(tmp_path / "state").assets == tmp_path
    (tmp_path / "kubectl").unlink()
    with pytest.raises(LabError, match=f"^kubectl not found in {tmp_path}: .* KUBEBUILDER_ASSETS"):
        ControlPlane(tmp_path / "state")


def test_missing_binaries_are_an_error_that_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(gomodule, "CACHE", tmp_path)
    with pytest.raises(LabError, match=r"^etcd, kube-apiserver, kubectl not found in .*: run `make setup`\.$"):
        ControlPlane(tmp_path)


def test_a_changed_go_module_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = binaries.cached_assets()
    for file in binaries.MODULE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(binaries, "MODULE", tmp_path)
    assert binaries.cached_assets() == before
    (tmp_path / "scheduler.go").write_text("package main\n")
    assert binaries.cached_assets() != before
