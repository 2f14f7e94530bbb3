"""`kubectl virtsync` as people run it: by the real kubectl, on a real API server, about real VMs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from controller.cli.vm.views.hosts import HEADINGS
from controller.kube.user_kubeconfig import Wish, connect
from lab.connect import ConnectProxy
from lab.controlplane import ControlPlane
from lab.world import World, reason_of, runs, until
from tests.terminal import Terminal

Json = dict[str, Any]

PROGRAMS = Path(sys.executable).parent
NAMESPACE = "kubectl-virtsync"
REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
PLUGIN = """\
#!/bin/sh
echo '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"{token}"}}}}'
"""


@pytest.fixture
def namespace(crd: ControlPlane) -> Iterator[str]:
    crd.kubectl("create", "namespace", NAMESPACE, check=False)
    yield NAMESPACE
    crd.kubectl("delete", "kvm", "--all", "-n", NAMESPACE)


def kubectl(
    controlplane: ControlPlane, *words: str, kubeconfig: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the real kubectl, which finds the plugin on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env = inherited | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    env |= {"KUBECONFIG": kubeconfig or str(controlplane.kubeconfig)} | environ
    program = str(controlplane.assets / "kubectl")
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, env=env, check=False)


def apply(controlplane: ControlPlane, name: str, *, labels: Json | None = None, **spec: Any) -> None:
    manifest = {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {}},
        "spec": spec,
    }
    controlplane.kubectl("apply", "-f", "-", input=json.dumps(manifest))


def status_lines(output: str) -> dict[str, str]:
    """The lines of a status below its title, by their first word."""
    return {line[2:11].strip(): line[13:] for line in output.splitlines()[1:]}


def until_reported(world: World) -> None:
    """Wait until the agent has reported on its host, which can be after its first report on a VM."""
    words = ("get", "kvmhost", world.node, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
    until(
        lambda: world.controlplane.kubectl(*words, check=False).stdout == "True",
        "The agent does not report on its host.",
    )


# --- real VMs


def test_status_tells_why_a_held_vm_is_off_and_how_to_release_it(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    until_reported(world)

    shown = kubectl(world.controlplane, "virtsync", "status", guest.name, "-n", world.name)
    assert (shown.returncode, shown.stderr) == (0, "")
    title, *_ = shown.stdout.splitlines()
    lines = status_lines(shown.stdout)
    assert title == f"{world.name}/{guest.name}"
    first, then = ["Power", "Desired", "Reason", "For", "Message"], ["Next", "Node", "Last stop", "Restarts"]
    assert list(lines) == [*first, *then, "Holds", "Domain", "More"]
    assert (lines["Reason"], lines["Restarts"]) == ("Held", "0")
    assert lines["More"] == "https://virtsync.dev/reasons/Held/"
    assert lines["Desired"] == "Running (restartPolicy Always, shutdown GracefulThenForce in 180 s)"
    assert re.fullmatch(r"Stopped \(libvirt: SHUTOFF, DESTROYED\) since \S+Z \(\d+s ago\)", lines["Power"])
    assert "ann" in lines["Message"]
    assert re.fullmatch(r"\d+s \(\S+Z\)", lines["For"])
    assert f"kubectl annotate kvm -n {world.name} {guest.name} hold.virtsync.dev/ann-" in lines["Next"]
    assert re.match(r"External, \d+s ago \(\S+Z\): ", lines["Last stop"])
    assert lines["Holds"] == "ann (backup)"
    assert lines["Domain"] == f"{guest.name} {guest.uuid}"
    assert re.match(rf"{world.node}, agent Active for \d+s \(\S+Z\), virtsync ", lines["Node"])

    command = re.search(r"\((kubectl .*)\)", lines["Next"])
    assert command
    assert kubectl(world.controlplane, *command[1].split()[1:]).returncode == 0
    world.until(guest, runs, "running again after the command that Next names")


def test_drift_ends_with_1_while_a_vm_is_not_as_wanted_and_with_0_after(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    fine = kubectl(world.controlplane, "virtsync", "drift", "-n", world.name)
    assert (fine.returncode, fine.stdout) == (0, "The VM is as wanted.\n")

    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    found = kubectl(world.controlplane, "virtsync", "drift", "-n", world.name)
    reason, headings, row, _, total = found.stdout.splitlines()
    assert found.returncode == 1
    assert reason == "Held (1): held"
    assert headings.split() == ["NAME", "POWER", "DESIRED", "FOR", "NODE"]
    name, power, desired, _, node = row.split()
    assert (name, power, desired, node) == (f"{world.name}/{guest.name}", "Stopped", "Running", world.node)
    assert total == "1 of 1 VMs is not as wanted."

    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann-")
    world.until(guest, runs, "running")
    assert kubectl(world.controlplane, "virtsync", "drift", "-n", world.name).returncode == 0


def test_history_shows_what_was_done_and_each_stop_in_order(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    world.virsh("destroy", guest.name)
    world.until_event(guest, "StoppedUnexpectedly")
    world.until_event(guest, "Started")
    world.until(guest, runs, "running again")

    told = kubectl(world.controlplane, "virtsync", "history", guest.name, "-n", world.name, "-o", "json")
    assert told.returncode == 0, told.stderr
    whats = [entry["what"] for entry in json.loads(told.stdout)["history"]]
    assert whats == ["Created", "StoppedUnexpectedly", "Started"], told.stdout
    shown = kubectl(world.controlplane, "virtsync", "history", guest.name, "-n", world.name)
    assert [line.split("   ")[2].strip() for line in shown.stdout.splitlines()] == whats

    world.kubectl("delete", "kvm", guest.name)
    gone = kubectl(world.controlplane, "virtsync", "history", guest.name, "-n", world.name)
    assert gone.returncode == 0
    assert "Started" in gone.stdout
    assert gone.stderr == f"{world.name}/{guest.name} does not exist any more.\n"


def test_hosts_shows_the_agent_of_a_node_and_its_maintenance(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    until_reported(world)
    world.controlplane.kubectl("label", "kvmhost", world.node, f"test={world.name}")
    spec = {"spec": {"maintenance": {"mode": "Hold", "reason": "new RAM"}}}
    world.controlplane.kubectl("patch", "kvmhost", world.node, "--type=merge", "-p", json.dumps(spec))
    world.controlplane.kubectl("wait", f"kvmhost/{world.node}", "--for=condition=Quiesced", "--timeout=60s")
    shown = kubectl(world.controlplane, "virtsync", "hosts", "-l", f"test={world.name}")
    assert shown.returncode == 0, shown.stderr
    heading, row, blank, remark = shown.stdout.splitlines()
    assert tuple(heading.split()) == HEADINGS
    assert row.split()[:2] == [world.node, "Active"]
    assert "Hold, Quiet" in row
    assert blank == ""
    assert remark.startswith(f"{world.node}: Maintenance Hold: new RAM, in force since ")


def test_the_agent_of_the_node_is_not_asked_for_by_whom_may_not_see_it(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, lambda vm: reason_of(vm) == "InSync", "InSync")
    rules = ("--verb=get,list", "--resource=virtualmachines.virtsync.dev")
    world.kubectl("create", "role", "only-vms", *rules)
    world.kubectl("create", "rolebinding", "only-vms", "--role=only-vms", "--user=tenant")
    shown = kubectl(world.controlplane, "virtsync", "status", guest.name, "-n", world.name, "--as", "tenant")
    assert shown.returncode == 0, shown.stderr
    assert status_lines(shown.stdout)["Node"] == f"{world.node}, agent not shown: you may not read Hypervisors"


# --- which objects


def test_a_selector_a_name_and_all_namespaces_choose_the_vms(crd: ControlPlane, namespace: str) -> None:
    apply(crd, "web-1", labels={"app": "web"}, powerState="Running")
    apply(crd, "db-1", labels={"app": "db"})

    def names(*words: str) -> list[str]:
        shown = kubectl(crd, "virtsync", "status", *words, "-o", "name")
        assert shown.returncode == 0, shown.stderr
        return shown.stdout.split()

    web, db = "virtualmachine.virtsync.dev/web-1", "virtualmachine.virtsync.dev/db-1"
    assert names("-n", namespace) == [db, web]
    assert names("-n", namespace, "-l", "app=web") == [web]
    assert names("-n", namespace, "-l", " ") == [db, web]
    assert names("-n", namespace, "web-1", "-l", " ") == [web]
    blank = kubectl(crd, "get", "kvm", "-n", namespace, "-l", " ", "-o", "name")
    assert blank.stdout.split() == [db, web], "kubectl does the same"
    assert names("-n", namespace, "web-1", "kvm/db-1") == [web, db]
    assert {web, db} <= set(names("-A"))
    assert names("-A", "-l", "app in (db)") == [db]
    assert names() == []


@pytest.mark.parametrize("form", [(), ("-o", "name")])
def test_a_name_that_does_not_exist_hides_no_other(crd: ControlPlane, namespace: str, form: tuple[str, ...]) -> None:
    apply(crd, "web-1")
    apply(crd, "db-1")
    shown = kubectl(crd, "virtsync", "status", "web-1", "nope", "db-1", "gone", "-n", namespace, *form)
    assert shown.returncode == 2
    assert "web-1" in shown.stdout
    assert "db-1" in shown.stdout
    assert shown.stderr == (
        'Error: virtualmachines.virtsync.dev "nope" not found; virtualmachines.virtsync.dev "gone" not found.\n'
    )


def test_objects_come_out_as_kubectl_prints_them(crd: ControlPlane, namespace: str) -> None:
    apply(crd, "web-1", powerState="Running")
    one = kubectl(crd, "virtsync", "status", "web-1", "-n", namespace, "-o", "json")
    its = kubectl(crd, "get", "kvm", "web-1", "-n", namespace, "-o", "json", "--show-managed-fields")
    assert json.loads(one.stdout) == json.loads(its.stdout)
    listed = kubectl(crd, "virtsync", "drift", "-n", namespace, "-o", "yaml")
    assert listed.returncode == 1
    applied = kubectl(crd, "virtsync", "drift", "-n", namespace, "-o", "json")
    assert json.loads(applied.stdout)["items"] == [json.loads(its.stdout)]
    assert listed.stdout.startswith("apiVersion: v1\nkind: List\nitems:\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("status", "nothing-here"), 'virtualmachines.virtsync.dev "nothing-here" not found'),
        (("history", "nothing-here"), 'virtualmachines.virtsync.dev "nothing-here" not found'),
        (("drift", "-l", "a in ("), "unable to parse requirement"),
        (("drift", "--as", "nobody"), 'User "nobody" cannot list resource "virtualmachines"'),
        (("drift", "--context", "other"), "it has no context 'other'"),
        (("drift", "web-1", "-A"), "NAME cannot be combined with -l or -A"),
        (("drift", "--as", "a\nb"), "cannot impersonate 'a\\nb'"),
        (("drift", "--as-group", "admins"), "it asks for impersonation without a user: add --as"),
    ],
)
def test_an_error_ends_with_2_and_one_sentence(crd: ControlPlane, words: tuple[str, ...], told: str) -> None:
    """1 means drift."""
    ended = kubectl(crd, "virtsync", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("everything", [False, True])
def test_an_output_that_cannot_be_written_is_an_error_and_no_drift(crd: ControlPlane, *, everything: bool) -> None:
    """`everything`: stderr cannot be written either, as with a log on a full disk."""
    with Path("/dev/full").open("w") as full:
        errors = full if everything else subprocess.PIPE
        ended = subprocess.run(drift(crd), stdout=full, stderr=errors, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert everything or ended.stderr == "Error: the output cannot be written: No space left on device.\n"


def test_an_output_that_nobody_reads_is_no_drift(crd: ControlPlane) -> None:
    """As in `| head -1`: it ends as kubectl does."""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(drift(crd), stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def drift(controlplane: ControlPlane) -> list[str]:
    words = ["vm", "drift", "-A", "-o", "json", "--kubeconfig", str(controlplane.kubeconfig)]
    return [sys.executable, "-m", "controller", *words]


def test_an_api_server_that_is_not_there_is_an_error_and_no_drift(crd: ControlPlane, tmp_path: Path) -> None:
    file = written(tmp_path / "dead", "dead", "https://127.0.0.1:1", {})
    ended = kubectl(crd, "virtsync", "drift", "-A", kubeconfig=str(file))
    assert ended.returncode == 2
    assert "the API server does not answer" in ended.stderr


# --- the kubeconfig, as kubectl has it


def written(file: Path, name: str, server: str, user: Json, *, ca: Path | None = None, **context: str) -> Path:
    """A kubeconfig with one context of this name; the other names are the same."""
    cluster = {"server": server} | ({"certificate-authority": str(ca)} if ca else {})
    config = {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name} | context}],
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config))
    return file


def two_files(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    """The first current-context wins, and names what only the second file has."""
    first, second = folder / "first", folder / "second"
    first.write_text(json.dumps({"current-context": "b", "users": [{"name": "b", "user": {"token": server.token}}]}))
    written(second, "b", server.url, {"token": "wrong"}, ca=server.ca, namespace="team-b")
    return Wish(), {"KUBECONFIG": f"{folder / 'missing'}:{first}:{second}"}


def another_context(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    written(folder / "first", "a", "https://127.0.0.1:1", {})
    written(folder / "second", "b", server.url, {"token": server.token}, ca=server.ca)
    return Wish(context="b"), {"KUBECONFIG": f"{folder / 'first'}:{folder / 'second'}"}


def paths_of_its_own_folder(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    """A relative path is relative to the file that has it, and so is the program of an exec plugin."""
    there = folder / "there"
    file = written(there / "config", "a", server.url, {"exec": plugin("./plugin")}, ca=Path("ca.crt"))
    (there / "ca.crt").write_bytes(server.ca.read_bytes())
    (there / "plugin").write_text(PLUGIN.format(token=server.token))
    (there / "plugin").chmod(0o755)
    (folder / "empty").touch()
    return Wish(), {"KUBECONFIG": f"{folder / 'empty'}:{file}"}


def home(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    written(folder / ".kube" / "config", "a", server.url, {"token": server.token}, ca=server.ca)
    return Wish(), {"KUBECONFIG": "", "HOME": str(folder)}


def impersonation_in_the_file(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    user = {
        "token": server.token,
        "as": "ann",
        "as-uid": "7",
        "as-groups": ["team a", "admins, all"],
        "as-user-extra": {"reason/why": ["x", "y"]},
    }
    return Wish(kubeconfig=written(folder / "config", "a", server.url, user, ca=server.ca)), {}


def impersonation_by_option(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    file = written(folder / "config", "a", server.url, {"token": server.token, "as": "ann"}, ca=server.ca)
    return Wish(kubeconfig=file, user="eve", groups=("one", "two")), {}


def impersonation_of_a_name_that_is_not_ascii(server: ControlPlane, folder: Path) -> tuple[Wish, dict[str, str]]:
    file = written(folder / "config", "a", server.url, {"token": server.token}, ca=server.ca)
    return Wish(kubeconfig=file, user="jürgen", groups=("größe", "日本")), {}


def plugin(command: str) -> Json:
    api = "client.authentication.k8s.io/v1"
    return {"apiVersion": api, "command": command, "interactiveMode": "IfAvailable"}


@pytest.mark.parametrize(
    "given",
    [
        two_files,
        another_context,
        paths_of_its_own_folder,
        home,
        impersonation_in_the_file,
        impersonation_by_option,
        impersonation_of_a_name_that_is_not_ascii,
    ],
)
def test_the_api_server_sees_the_same_user_as_of_kubectl(
    crd: ControlPlane, tmp_path: Path, given: Callable[[ControlPlane, Path], tuple[Wish, dict[str, str]]]
) -> None:
    wish, environ = given(crd, tmp_path)
    connection = connect(wish, environ)
    ours = connection.api.request("POST", REVIEWS, REVIEW)["status"]["userInfo"]

    words = [f"--kubeconfig={wish.kubeconfig}"] if wish.kubeconfig else []
    words += [f"--context={wish.context}"] if wish.context else []
    words += [f"--as={wish.user}"] if wish.user else []
    words += [f"--as-group={group}" for group in wish.groups]
    its = kubectl(crd, "auth", "whoami", "-o", "json", *words, **environ)
    assert its.returncode == 0, its.stderr
    assert ours == json.loads(its.stdout)["status"]["userInfo"]
    assert ours["username"] in {"ann", "eve", "jürgen", "admin"}

    view = kubectl(crd, "config", "view", "--minify", "-o", "jsonpath={..namespace}", *words, **environ)
    assert connection.namespace == (view.stdout or "default")


def test_a_proxy_of_the_cluster_is_used(crd: ControlPlane, namespace: str, tmp_path: Path) -> None:
    apply(crd, "web-1", powerState="Running")
    port = urlsplit(crd.url).port
    assert port
    with ConnectProxy(port) as proxy:
        file = written(tmp_path / "config", "a", crd.url, {"token": crd.token}, ca=crd.ca, namespace=namespace)
        config = json.loads(file.read_text())
        config["clusters"][0]["cluster"]["proxy-url"] = proxy.url
        file.write_text(json.dumps(config))
        shown = kubectl(crd, "virtsync", "status", "-o", "name", kubeconfig=str(file))
        assert shown.stdout == "virtualmachine.virtsync.dev/web-1\n", shown.stderr
        assert proxy.asked


LOGIN = "Basic YW5uOnNlY3JldA=="


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_the_proxy_of_the_environment_is_used_with_its_password(
    crd: ControlPlane, namespace: str, tmp_path: Path, variable: str
) -> None:
    """No name server knows the API server: only the proxy leads to it. The proxies of the environment are not used for
    loopback addresses, neither by kubectl."""
    apply(crd, "web-1", powerState="Running")
    port = urlsplit(crd.url).port
    assert port
    file = written(
        tmp_path / "config", "a", "https://api.invalid:6443", {"token": crd.token}, ca=crd.ca, namespace=namespace
    )
    config = json.loads(file.read_text())
    config["clusters"][0]["cluster"]["tls-server-name"] = "127.0.0.1"
    file.write_text(json.dumps(config))
    with ConnectProxy(port, authorization=LOGIN) as proxy:
        environ = {variable: proxy.url.replace("//", "//ann:secret@")}
        for words in (("virtsync", "status", "-o", "name"), ("get", "kvm", "-o", "name")):
            shown = kubectl(crd, *words, kubeconfig=str(file), **environ)
            assert shown.stdout == "virtualmachine.virtsync.dev/web-1\n", shown.stderr
            assert {line.split()[1] for line in proxy.asked} == {"api.invalid:6443"}
        count = len(proxy.asked)
        around = kubectl(crd, "virtsync", "status", kubeconfig=str(file), NO_PROXY="api.invalid", **environ)
        assert (around.returncode, len(proxy.asked)) == (2, count)
        assert "the API server does not answer" in around.stderr
        environ = {variable: proxy.url.replace("//", "//ann:wrong@")}
        refused = kubectl(crd, "virtsync", "status", kubeconfig=str(file), **environ)
        assert refused.returncode == 2
        assert "407" in refused.stderr


ASKS = """\
#!/bin/sh
printf 'Password: ' >/dev/tty
read -r secret
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"'"$secret"'"}}'
"""


def test_an_exec_plugin_can_ask_the_person_at_the_terminal(crd: ControlPlane, namespace: str, tmp_path: Path) -> None:
    apply(crd, "web-1", powerState="Running")
    file = written(tmp_path / "config", "a", crd.url, {"exec": plugin("./asks")}, ca=crd.ca, namespace=namespace)
    (tmp_path / "asks").write_text(ASKS)
    (tmp_path / "asks").chmod(0o755)
    env = os.environ | {"PATH": f"{PROGRAMS}:{crd.assets}:{os.environ['PATH']}", "KUBECONFIG": str(file)}
    with Terminal(["kubectl", "virtsync", "status", "-o", "name"], env=env) as terminal:
        terminal.until(lambda screen: "Password:" in screen)
        terminal.press(f"{crd.token}\n")
        assert terminal.ended() == 0
        assert "virtualmachine.virtsync.dev/web-1" in terminal.text
    piped = kubectl(crd, "virtsync", "status", kubeconfig=str(file))
    assert piped.returncode == 2


# --- kubectl and the plugin


def test_kubectl_completes_commands_and_the_names_of_vms(crd: ControlPlane, namespace: str) -> None:
    apply(crd, "web-1")
    apply(crd, "db-1")
    commands = kubectl(crd, "__complete", "virtsync", "")
    assert {line.split("\t")[0] for line in commands.stdout.splitlines()} >= {"status", "drift", "hosts", "history"}
    names = kubectl(crd, "__complete", "virtsync", "status", "-n", namespace, "we")
    assert names.stdout.splitlines()[0] == "web-1"
    assert "db-1" not in names.stdout


def test_help_and_errors_name_the_words_that_people_type(crd: ControlPlane) -> None:
    assert kubectl(crd, "virtsync", "status", "-h").stdout.startswith("Usage: kubectl virtsync status [OPTIONS]")
    wrong = kubectl(crd, "virtsync", "statsu")
    assert wrong.returncode == 2
    assert "Usage: kubectl virtsync" in wrong.stderr
    assert kubectl(crd, "virtsync", "--version").stdout.startswith("kubectl-virtsync, version ")
