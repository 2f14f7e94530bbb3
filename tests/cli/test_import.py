"""`virtsync import` as its users meet it, from a libvirt and without a cluster: files, repeated runs, refusals."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

import pytest
import yaml
from click.testing import CliRunner, Result

from controller.cli import main

DOMAIN = """
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os>
    <test:runstate>{state}</test:runstate>
  </domain>"""
RUNNING, PAUSED, OFF = 1, 3, 5
HOST = {"web-1": RUNNING, "DB_1": OFF, "old": PAUSED}
SWITCHES_NOTHING = "No powerState was written: applied as they are, these manifests switch nothing."
WEB_1 = f"""\
# The domain web-1 of node-a was Running (UNKNOWN) when it was imported.
apiVersion: virtsync.dev/v1alpha1
kind: VirtualMachine
metadata:
  name: web-1
  namespace: vms
  annotations:
    argocd.argoproj.io/sync-options: Prune=false
    kustomize.toolkit.fluxcd.io/prune: disabled
spec:
  nodeName: node-a
  domain:
    uuid: {uuid5(NAMESPACE_DNS, "web-1")}
  # powerState: Running
"""


class Host:
    """A libvirt of the test driver, whose domains the test chooses, and a folder for the import."""

    def __init__(self, folder: Path) -> None:
        self.xml = folder / "node.xml"
        self.out = folder / "vms"
        self.have(HOST)

    def have(self, domains: dict[str, int]) -> None:
        texts = [DOMAIN.format(name=name, uuid=uuid(name), state=state) for name, state in domains.items()]
        self.xml.write_text(f"<node>{''.join(texts)}</node>")

    def run(self, *words: str, namespaces: bool = True) -> Result:
        """Import from this libvirt, without a cluster."""
        given = ["--libvirt-uri", f"test://{self.xml}", "--node", "node-a", "--offline"]
        return CliRunner().invoke(main, ["import", *given, *(["--namespace", "vms"] if namespaces else []), *words])

    def to_files(self, *words: str) -> Result:
        return self.run("--out", str(self.out), *words)

    def files(self) -> dict[str, str]:
        return contents(self.out)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def uuid(name: str) -> str:
    return str(uuid5(NAMESPACE_DNS, name))


DB_1 = f"db-1-{uuid('DB_1')[:8]}"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def refusal(ended: Result, code: int) -> str:
    assert ended.exit_code == code, ended.output
    assert ended.stdout == ""
    *hints, sentence = ended.stderr.strip().splitlines()
    assert [hint for hint in hints if hint and not hint.startswith(("Usage: ", "Try "))] == []
    assert sentence.startswith("Error: ")
    return sentence.removeprefix("Error: ")


# --- what it writes


def test_without_out_it_prints_manifests_and_writes_nothing(host: Host, tmp_path: Path) -> None:
    before = contents(tmp_path)
    ended = host.run()
    assert ended.exit_code == 0
    assert ended.stderr.splitlines() == ["node-a: 3 domains without an object, 2 of them on.", SWITCHES_NOTHING]
    assert [vm["metadata"]["name"] for vm in yaml.safe_load_all(ended.stdout)] == [DB_1, "old", "web-1"]
    assert ended.stdout.endswith(f"---\n{WEB_1}")
    assert contents(tmp_path) == before


def test_with_out_each_domain_gets_a_file_and_each_folder_a_kustomization(host: Host) -> None:
    ended = host.to_files()
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert ended.stderr.splitlines() == [
        f"node-a: 3 domains without an object, 2 of them on: 3 files in {host.out}/node-a.",
        SWITCHES_NOTHING,
    ]
    files = host.files()
    names = [f"{DB_1}.yaml", "old.yaml", "web-1.yaml"]
    assert set(files) == {"kustomization.yaml", "node-a/kustomization.yaml", *(f"node-a/{name}" for name in names)}
    assert files["node-a/web-1.yaml"] == WEB_1
    assert yaml.safe_load(files["node-a/kustomization.yaml"])["resources"] == names
    assert yaml.safe_load(files["kustomization.yaml"])["resources"] == ["node-a"]
    assert "powerState:" not in files["node-a/old.yaml"]
    assert (host.out / "node-a" / "web-1.yaml").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_two_people_get_the_same_files(host: Host, tmp_path: Path) -> None:
    host.to_files()
    host.have(dict(reversed(HOST.items())))
    host.run("--out", str(tmp_path / "other"))
    assert contents(tmp_path / "other") == host.files()


def test_a_second_run_changes_nothing(host: Host) -> None:
    host.to_files()
    before = {path: path.stat().st_mtime_ns for path in host.out.rglob("*")}
    ended = host.to_files()
    assert ended.exit_code == 0
    assert ended.stderr.splitlines() == ["node-a: every domain has an object or a file."]
    assert {path: path.stat().st_mtime_ns for path in host.out.rglob("*")} == before


def test_a_later_run_adds_what_is_new_and_leaves_edits_alone(host: Host) -> None:
    host.to_files()
    edited = (
        WEB_1.replace("# powerState", "powerState").replace("web-1", "shop").replace("namespace: vms", "namespace: x")
    )
    (host.out / "node-a" / "web-1.yaml").write_text(edited)
    kustomization = host.out / "node-a" / "kustomization.yaml"
    kustomization.write_text("# ours\n" + kustomization.read_text() + "commonLabels: {a: b}\n")
    top = host.out / "kustomization.yaml"
    top.write_text("resources: []  # node-a comes later\n")
    host.have(HOST | {"new": OFF})

    ended = host.to_files()
    assert ended.exit_code == 0, ended.output
    assert "node-a: 1 domain without an object or a file, 0 of them on: 1 file in " in ended.stderr
    files = host.files()
    assert files["node-a/web-1.yaml"] == edited
    assert files["kustomization.yaml"] == "resources: []  # node-a comes later\n"
    assert files["node-a/kustomization.yaml"].splitlines() == [
        "# ours",
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "resources:",
        f"- {DB_1}.yaml",
        "- new.yaml",
        "- old.yaml",
        "- web-1.yaml",
        "commonLabels: {a: b}",
    ]


def test_a_file_moved_within_the_folder_still_counts_and_hidden_files_do_not(host: Host) -> None:
    host.to_files()
    moved = host.out / "team" / "shops" / "shop.yml"
    moved.parent.mkdir(parents=True)
    (host.out / "node-a" / "web-1.yaml").rename(moved)
    (host.out / ".git").mkdir()
    (host.out / ".git" / "x.yaml").write_text("{{ not yaml")
    assert host.to_files().stderr.splitlines() == ["node-a: every domain has an object or a file."]


def as_list(kind: str, items: list[object]) -> dict[str, object]:
    return {"apiVersion": "v1" if kind == "List" else "virtsync.dev/v1alpha1", "kind": kind, "items": items}


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("all.yaml", lambda vms: yaml.safe_dump(as_list("List", vms))),
        ("all.yml", lambda vms: yaml.safe_dump(as_list("List", [as_list("VirtualMachineList", vms)]))),
        ("all.yaml", lambda vms: yaml.safe_dump(as_list("VirtualMachineList", [without_kind(vm) for vm in vms]))),
        ("all.json", lambda vms: json.dumps(as_list("List", vms), indent="\t")),
        ("all.json", lambda vms: "\n".join(f"---\n{json.dumps(vm)}" for vm in vms)),
    ],
)
def test_objects_in_lists_and_in_json_count_too(
    host: Host, file: str, written: Callable[[list[dict[str, object]]], str]
) -> None:
    """As `kubectl get -o yaml` and `-o json` print them."""
    vms = list(yaml.safe_load_all(host.run().stdout))
    host.out.mkdir()
    (host.out / file).write_text(written(vms))
    assert host.to_files().stderr.splitlines() == ["node-a: every domain has an object or a file."]
    assert list(host.files()) == [file]


def without_kind(vm: dict[str, object]) -> dict[str, object]:
    return {field: value for field, value in vm.items() if field not in {"apiVersion", "kind"}}


def test_a_file_of_another_domain_keeps_its_name(host: Host) -> None:
    folder = host.out / "node-a"
    folder.mkdir(parents=True)
    (folder / "web-1.yaml").write_text("kind: ConfigMap\n")
    host.to_files()
    files = host.files()
    assert files["node-a/web-1.yaml"] == "kind: ConfigMap\n"
    assert f"node-a/web-1-{uuid('web-1')[:8]}.yaml" in files


def test_another_name_of_a_kustomization_is_kept(host: Host) -> None:
    host.out.mkdir()
    (host.out / "Kustomization").write_text("resources:\n- zoo\n")
    host.to_files()
    files = host.files()
    assert files["Kustomization"] == "resources:\n- node-a\n- zoo\n"
    assert "kustomization.yaml" not in files


def test_power_states_as_seen_and_unpinned(host: Host) -> None:
    ended = host.run("--power-state-as-seen", "--unpinned")
    assert ended.stderr.splitlines()[-1] == (
        "powerState was written as seen: 1 Running, 1 Stopped; 1 have none, because their state is neither."
    )
    assert [vm["spec"] for vm in yaml.safe_load_all(ended.stdout)] == [
        {"domain": {"uuid": uuid("DB_1")}, "powerState": "Stopped"},
        {"domain": {"uuid": uuid("old")}},
        {"domain": {"uuid": uuid("web-1")}, "powerState": "Running"},
    ]
    assert "# powerState" not in ended.stdout


def test_rules_choose_the_namespace(host: Host, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- match: web-.*\n  namespace: shop\n- {match: .*, namespace: rest}\n")
    ended = host.run("--namespaces", str(rules), namespaces=False)
    spaces = {vm["metadata"]["name"]: vm["metadata"]["namespace"] for vm in yaml.safe_load_all(ended.stdout)}
    assert spaces == {DB_1: "rest", "old": "rest", "web-1": "shop"}


# --- what it refuses


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Give either --namespace or --namespaces."),
        ("--namespace a --namespaces {rules}", "Give either --namespace or --namespaces."),
        ("--namespace A", "'A' cannot be the name of a namespace"),
        ("--namespace a --node A", "'A' cannot be the name of a Node"),
        ("--namespace a --offline", "--offline needs --libvirt-uri"),
        ("--namespace a --libvirt-uri x", "--libvirt-uri needs exactly one --node"),
        ("--namespace a --libvirt-uri x --node a --node b", "--libvirt-uri needs exactly one --node"),
        ("--namespace a --kubeconfig /nonexistent", "File '/nonexistent' does not exist"),
        ("--namespace a --out {rules}", "is a file"),
        ("--namespaces /nonexistent", "/nonexistent cannot be read"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_2(tmp_path: Path, words: str, told: str) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {match: x, namespace: y}")
    given = words.format(rules=rules).split()
    assert told in refusal(CliRunner().invoke(main, ["import", *given]), 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must have a list of rules, each with the fields match and namespace."),
        ("[]", "must have a list of rules"),
        ("match: x", "must have a list of rules"),
        ("a: [", "has no rules: it is not valid YAML: line 2"),
        ("- match: x", "rule 1 must have the fields match and namespace, both strings, and no other."),
        ("- {match: x, namespace: y}\n- {match: x, namespace: y, node: z}", "rule 2 must have the fields"),
        ("- {match: 1, namespace: y}", "rule 1 must have the fields"),
        ("- {match: '(', namespace: y}", "rule 1: '(' is not a regular expression: missing ), unterminated"),
        ("- {match: x, namespace: Y}", "rule 1: 'Y' cannot be the name of a namespace"),
    ],
)
def test_bad_rules_are_one_sentence_and_exit_2(host: Host, tmp_path: Path, text: str, told: str) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(text)
    assert told in refusal(host.run("--namespaces", str(rules), "--out", str(host.out), namespaces=False), 2)
    assert not host.out.exists()


def test_domains_without_a_rule_are_one_sentence_and_nothing_is_written(host: Host, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {match: web-1, namespace: y}")
    told = refusal(host.run("--namespaces", str(rules), "--out", str(host.out), namespaces=False), 2)
    assert told == "no rule fits these domains, so they have no namespace: node-a: DB_1, old."
    assert not host.out.exists()


def test_no_domain_without_a_rule_is_left_out_of_the_sentence(host: Host, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {match: web-1, namespace: y}")
    names = [f"a-domain-with-a-rather-long-name-{number:04}" for number in range(200)]
    host.have(dict.fromkeys(names, OFF))
    told = refusal(host.run("--namespaces", str(rules), namespaces=False), 2)
    assert told.endswith(f": {', '.join(names)}.")


def test_an_error_cannot_move_the_cursor(host: Host) -> None:
    broken = host.out / "\x1b[2Jbad.yaml"
    broken.parent.mkdir()
    broken.write_bytes(b"\xff")
    told = refusal(host.to_files(), 2)
    assert told == f"{host.out}/bad.yaml cannot be read, so its objects are not known: it is not UTF-8."


@pytest.mark.parametrize("uri", ["nonsense://", "qemu+unix:///system?socket=/nonexistent"])
def test_a_libvirt_that_does_not_answer_is_one_sentence(uri: str) -> None:
    words = ["import", "--libvirt-uri", uri, "--node", "a", "--namespace", "vms", "--offline"]
    ended = subprocess.run(
        [sys.executable, "-m", "controller", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(rf"Error: the libvirt {re.escape(uri)} does not answer: [^\n]+\.\n", ended.stderr)


def test_without_a_cluster_the_sentence_names_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    words = ["import", "--node", "a", "--namespace", "vms"]
    told = f"there is no kubeconfig: looked for {tmp_path}/.kube/config"
    assert refusal(CliRunner().invoke(main, words), 2) == f"{told}."
    with_libvirt = [*words, "--libvirt-uri", "test:///default"]
    assert refusal(CliRunner().invoke(main, with_libvirt), 2) == f"{told}; with --offline, no cluster is needed."


def test_a_file_that_cannot_be_read_is_one_sentence_because_it_might_name_the_domain(host: Host) -> None:
    host.to_files()
    broken = host.out / "node-a" / "web-1.yaml"
    broken.write_text(WEB_1.replace("kind:", "  kind:"))
    before = host.files()
    told = refusal(host.to_files(), 2)
    assert told.startswith(f"{broken} cannot be read, so its objects are not known: it is not valid YAML: line ")
    broken.write_bytes(b"\xff")
    assert refusal(host.to_files(), 2) == f"{broken} cannot be read, so its objects are not known: it is not UTF-8."
    broken.write_text(before["node-a/web-1.yaml"])
    deep = host.out / "deep.json"
    deep.write_text("[" * 100_000)
    assert (
        refusal(host.to_files(), 2) == f"{deep} cannot be read, so its objects are not known: it is nested too deeply."
    )
    deep.unlink()
    assert host.files() == before


def test_a_kustomization_that_cannot_be_changed_is_one_sentence_and_nothing_is_written(host: Host) -> None:
    host.to_files()
    kustomization = host.out / "node-a" / "kustomization.yaml"
    kustomization.write_text("resources: [old.yaml]")
    host.have(HOST | {"new": OFF, "newer": OFF})
    before = host.files()
    assert refusal(host.to_files(), 2) == (
        f"{kustomization} cannot be changed: its resources are not a list with one entry on each line."
        " Add to its resources: new.yaml, newer.yaml."
    )
    assert host.files() == before


def test_a_folder_that_cannot_be_written_is_one_sentence_and_nothing_is_written(host: Host) -> None:
    host.out.mkdir()
    (host.out / "node-a").write_text("a file in the place of the folder")
    told = refusal(host.to_files(), 2)
    assert told == f"{host.out}/node-a cannot be written: File exists."
    assert host.files() == {"node-a": "a file in the place of the folder"}


def test_a_full_disk_leaves_nothing_behind(host: Host) -> None:
    given = ["--libvirt-uri", f"test://{host.xml}", "--node", "node-a", "--offline", "--namespace", "vms"]
    command = [sys.executable, "-m", "controller", "import", *given, "--out", str(host.out)]
    # The kustomizations fit, the manifests do not.
    limited = ["prlimit", f"--fsize={len(WEB_1) - 50}", *command]
    ended = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert re.fullmatch(r"Error: \S+ cannot be written: File too large\.\n", ended.stderr)
    assert not host.out.exists()


def test_after_an_interruption_the_next_run_writes_the_rest(host: Host) -> None:
    host.to_files()
    complete = host.files()
    (host.out / "node-a" / "web-1.yaml").unlink()  # the kustomizations are in place before the manifests
    (host.out / "node-a" / "old.yaml").unlink()
    assert host.to_files().exit_code == 0
    assert host.files() == complete


# --- what it teaches


def test_help_has_a_sentence_for_each_option_and_examples() -> None:
    told = CliRunner().invoke(main, ["import", "--help"]).output
    for option in (
        "--out",
        "--namespace",
        "--namespaces",
        "--node",
        "--unpinned",
        "--power-state-as-seen",
        "--offline",
    ):
        assert f"\n  {option} " in told
    assert "virtsync import --namespace vms --out vms" in told
    assert max(map(len, told.splitlines())) <= 120


def test_help_and_wrong_options_answer_before_anything_heavy_is_loaded() -> None:
    program = """
import sys
from click.testing import CliRunner
before = set(sys.modules)  # since Python 3.14 pdb, which CliRunner needs, loads asyncio
from controller.cli import main
assert CliRunner().invoke(main, ["import", "--help"]).exit_code == 0
assert CliRunner().invoke(main, ["import", "--namespace", "A"]).exit_code == 2
loaded = set(sys.modules) - before
print(sorted({"asyncio", "kopf", "kubernetes", "libvirt", "prometheus_client", "structlog"} & loaded))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
