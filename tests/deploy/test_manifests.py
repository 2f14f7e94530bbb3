"""What a user applies: rendered by kubectl, and taken by a real API server, as a whole and more than once."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import __version__
from controller.cli import main
from controller.cli.vm.page import PORT_NAME
from controller.manager.settings import Settings
from lab.controlplane import ControlPlane
from tests.deploy.callers import AGENTS, REPOSITORY

Json = dict[str, Any]
DEPLOY = REPOSITORY / "deploy"
INSTALL = DEPLOY / "install.yaml"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
EVERY = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
NAME = "app.kubernetes.io/"
LABELS = {"name": "virtsync", "part-of": "virtsync", "version": __version__, "managed-by": "kustomize"}


def _rendered(controlplane: ControlPlane, folder: Path) -> list[Json]:
    return [*yaml.safe_load_all(controlplane.kubectl("kustomize", str(folder)).stdout)]


def _agents(objects: list[Json]) -> Json:
    found: Json = next(it for it in objects if it["kind"] == "DaemonSet")
    return found


def _managers(objects: list[Json]) -> Json:
    found: Json = next(it for it in objects if it["kind"] == "Deployment")
    return found


@pytest.fixture(params=EVERY)
def objects(request: pytest.FixtureRequest, installed: ControlPlane) -> list[Json]:
    return _rendered(installed, DEPLOY / request.param)


def test_the_rendered_file_is_as_its_source(installed: ControlPlane) -> None:
    comment, _, rest = INSTALL.read_text().partition("\n")
    assert comment.startswith("#")
    assert rest == installed.kubectl("kustomize", str(DEPLOY / "base")).stdout, "run `make manifests`"


def test_it_can_be_applied_in_one_go_with_the_crd_and_again_without_a_change(installed: ControlPlane) -> None:
    # The fixture has applied both to an empty cluster, in one go.
    again = installed.kubectl("apply", "-f", str(DEPLOY / "crds"), "-f", str(INSTALL)).stdout.splitlines()
    assert len(again) > 10
    # kubectl always sends the selector of a PodDisruptionBudget, and so never calls one unchanged.
    changed = [line for line in again if not line.endswith(" unchanged")]
    assert changed == ["poddisruptionbudget.policy/virtsync-manager configured"]
    assert installed.kubectl("diff", "-f", str(INSTALL), check=False).stdout == ""


def test_it_sets_back_the_shares_that_somebody_has_patched(installed: ControlPlane) -> None:
    """docs/scale.md warns of it."""
    level = ("prioritylevelconfiguration", "virtsync")
    shares = ("get", *level, "--output=jsonpath={.spec.limited.nominalConcurrencyShares}")
    installed.kubectl("patch", *level, "--type=merge", '-p={"spec":{"limited":{"nominalConcurrencyShares":60}}}')
    assert installed.kubectl(*shares).stdout == "60"
    installed.kubectl("apply", "-f", str(INSTALL))
    assert installed.kubectl(*shares).stdout == "20"


def test_it_can_be_applied_by_the_server_too(installed: ControlPlane) -> None:
    # Over what an ordinary apply has left: then a manager is to be named who gives way.
    words = ("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-o", "name")
    applied = installed.kubectl(*words, "-f", str(DEPLOY / "crds"), "-f", str(INSTALL)).stdout.split()
    assert len(applied) == len([*yaml.safe_load_all(INSTALL.read_text())]) + len([*(DEPLOY / "crds").iterdir()])


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "prometheus"])
def test_the_api_server_takes_each_overlay(installed: ControlPlane, overlay: str) -> None:
    changed = installed.kubectl("apply", "--dry-run=server", "-k", str(DEPLOY / "overlays" / overlay)).stdout
    managers = {"deployment.apps/virtsync-manager"} if overlay == "scrape-annotations" else set()
    assert {line.split()[0] for line in changed.splitlines() if "unchanged" not in line} == {
        "daemonset.apps/virtsync-agent",
        # For kubectl it always changes, see above.
        "poddisruptionbudget.policy/virtsync-manager",
        *managers,
    }


def test_the_overlay_for_prometheus_adds_and_changes_nothing(installed: ControlPlane) -> None:
    base, overlay = (_rendered(installed, DEPLOY / name) for name in ("base", "overlays/prometheus"))
    more = [it for it in overlay if it not in base]
    assert [it for it in base if it not in overlay] == []
    assert sorted((it["kind"], it["metadata"]["name"]) for it in more) == [
        ("PodMonitor", "virtsync-agent"),
        ("PodMonitor", "virtsync-manager"),
        ("PrometheusRule", "virtsync"),
        ("PrometheusRule", "virtsync-manager"),
    ]


def test_labels_are_by_convention(objects: list[Json]) -> None:
    for it in objects:
        labels = {k.removeprefix(NAME): v for k, v in it["metadata"]["labels"].items() if k.startswith(NAME)}
        component = labels.pop("component", None)
        assert labels == LABELS, it["metadata"]["name"]
        components = {"agent", "manager", "policy", "flowcontrol", "user"}
        assert component in ({None} if it["kind"] == "Namespace" else components)
    for workload, component in ((_agents(objects), "agent"), (_managers(objects), "manager")):
        template = workload["spec"]["template"]["metadata"]["labels"]
        assert template == {f"{NAME}{k}": v for k, v in (LABELS | {"component": component}).items()}


def test_names_are_in_the_agents_namespace_or_in_none(objects: list[Json]) -> None:
    for it in objects:
        assert it["metadata"].get("namespace", AGENTS) == AGENTS
        assert it["metadata"]["name"].startswith("virtsync")


def test_an_agent_has_nothing_that_it_can_do_without(objects: list[Json]) -> None:
    pod = _agents(objects)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"initContainers", "hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["volumeMounts"] == [{"name": "libvirt", "mountPath": "/run/libvirt", "readOnly": True}]
    assert pod["volumes"] == [{"name": "libvirt", "hostPath": {"path": "/run/libvirt", "type": "Directory"}}]
    assert set(container["resources"]["limits"]) == {"memory"}
    assert container["image"] == f"virtsync/virtsync:{__version__}"


def test_a_manager_has_nothing_of_the_host(objects: list[Json]) -> None:
    pod = _managers(objects)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"initContainers", "hostNetwork", "hostPID", "hostIPC", "volumes", "tolerations"}.isdisjoint(pod)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "volumeMounts" not in container
    assert set(container["resources"]["limits"]) == {"memory"}
    assert container["image"] == f"virtsync/virtsync:{__version__}"


def test_the_managers_are_apart_and_rather_not_on_kvm_hosts(objects: list[Json]) -> None:
    pod = _managers(objects)["spec"]["template"]
    spec = pod["spec"]
    assert spec["priorityClassName"] == "system-cluster-critical"
    (preferred,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchExpressions"] == [{"key": "virtsync.dev/kvm", "operator": "DoesNotExist"}]
    (spread,) = spec["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["maxSkew"]) == ("kubernetes.io/hostname", 1)
    assert spread["whenUnsatisfiable"] == "DoNotSchedule"
    assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_a_drain_leaves_one_of_the_managers(objects: list[Json]) -> None:
    (budget,) = (it for it in objects if it["kind"] == "PodDisruptionBudget")
    managers = _managers(objects)["spec"]
    assert managers["replicas"] == 2
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": managers["selector"],
    }


def test_who_may_connect_is_the_same_for_agents_and_managers(objects: list[Json]) -> None:
    policies = [it for it in objects if it["kind"] == "NetworkPolicy"]
    selected = [it["spec"].pop("podSelector") for it in policies]
    assert selected == [workload(objects)["spec"]["selector"] for workload in (_agents, _managers)]
    assert policies[0]["spec"] == policies[1]["spec"]


def test_no_pod_gets_a_token_by_accident(objects: list[Json]) -> None:
    accounts = {it["metadata"]["name"]: it for it in objects if it["kind"] == "ServiceAccount"}
    assert {name: it["automountServiceAccountToken"] for name, it in accounts.items()} == {
        "virtsync-agent": False,
        "virtsync-manager": False,
    }
    for workload in (_agents(objects), _managers(objects)):
        pod = workload["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == workload["metadata"]["name"]
        assert pod["automountServiceAccountToken"] is True


def test_there_is_never_a_second_agent_on_a_node(objects: list[Json]) -> None:
    assert _agents(objects)["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"},
    }


@pytest.mark.parametrize(("workload", "command"), [(_agents, "agent"), (_managers, "manager")])
def test_every_variable_is_one_that_the_command_knows(
    objects: list[Json], workload: Callable[[list[Json]], Json], command: str
) -> None:
    known = {option.envvar for option in main.commands[command].params}
    (container,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [command]
    assert {it["name"] for it in container["env"]} <= known


@pytest.mark.parametrize("workload", [_agents, _managers])
def test_probes_ask_for_what_the_process_serves(objects: list[Json], workload: Callable[[list[Json]], Json]) -> None:
    (container,) = workload(objects)["spec"]["template"]["spec"]["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/livez", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    assert {port["name"]: port["containerPort"] for port in container["ports"]}.items() >= {("http", 8080)}


def test_the_page_is_on_localhost_of_the_manager_alone_and_has_no_way_in(objects: list[Json]) -> None:
    (manager,) = _managers(objects)["spec"]["template"]["spec"]["containers"]
    (agent,) = _agents(objects)["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in manager["ports"]}
    assert ports[PORT_NAME] == Settings(namespace=AGENTS).page_port
    assert PORT_NAME not in {port["name"] for port in agent["ports"]}
    policies = [it for it in objects if it["kind"] == "NetworkPolicy"]
    admitted = {port["port"] for it in policies for rule in it["spec"]["ingress"] for port in rule["ports"]}
    assert admitted == {"http"}
    assert not [it for it in objects if it["kind"] in {"Service", "Ingress"}]


def test_prometheus_may_connect_to_what_it_is_told_to_scrape(installed: ControlPlane) -> None:
    rendered = _rendered(installed, DEPLOY / "overlays" / "prometheus")
    monitors = {it["metadata"]["name"]: it["spec"] for it in rendered if it["kind"] == "PodMonitor"}
    policies = {it["metadata"]["name"]: it["spec"] for it in rendered if it["kind"] == "NetworkPolicy"}
    assert monitors.keys() == policies.keys() == {"virtsync-agent", "virtsync-manager"}
    for workload in (_agents(rendered), _managers(rendered)):
        monitor, policy = monitors[workload["metadata"]["name"]], policies[workload["metadata"]["name"]]
        labels = workload["spec"]["template"]["metadata"]["labels"].items()
        assert policy["podSelector"] == monitor["selector"]
        assert monitor["selector"]["matchLabels"].items() <= labels
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        (endpoint,) = monitor["podMetricsEndpoints"]
        (ingress,) = policy["ingress"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
        assert {endpoint["port"]} == {port["port"] for port in ingress["ports"]}
        assert ingress["from"] == [{"namespaceSelector": {}}]


def test_the_annotations_for_prometheus_name_the_port_that_is_served(installed: ControlPlane) -> None:
    rendered = _rendered(installed, DEPLOY / "overlays" / "scrape-annotations")
    for workload in (_agents(rendered), _managers(rendered)):
        template = workload["spec"]["template"]
        (container,) = template["spec"]["containers"]
        (port,) = (port for port in container["ports"] if port["name"] == "http")
        annotations = {k: v for k, v in template["metadata"]["annotations"].items() if k.startswith("prometheus.io/")}
        assert annotations == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(port["containerPort"]),
            "prometheus.io/path": "/metrics",
        }


def test_the_jobs_without_the_operator_are_as_the_pod_monitors(installed: ControlPlane) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())}
    for monitor in _rendered(installed, DEPLOY / "overlays" / "prometheus"):
        if monitor["kind"] != "PodMonitor":
            continue
        name, (endpoint,) = monitor["metadata"]["name"], monitor["spec"]["podMetricsEndpoints"]
        job = jobs.pop(f"{AGENTS}/{name}")
        assert job["scrape_interval"] == endpoint["interval"]
        assert job.get("honor_labels") == endpoint.get("honorLabels")
        component = monitor["spec"]["selector"]["matchLabels"][f"{NAME}component"]
        kept, dropped, *others = job["relabel_configs"]
        assert (kept["regex"], kept["action"]) == (f"{component};{endpoint['port']}", "keep")
        # The operator drops them by itself: https://prometheus-operator.dev/docs/api-reference/api (filterRunning)
        assert (dropped["source_labels"], dropped["action"]) == (["__meta_kubernetes_pod_phase"], "drop")
        assert re.fullmatch(dropped["regex"], "Failed")
        assert re.fullmatch(dropped["regex"], "Succeeded")
        assert not re.fullmatch(dropped["regex"], "Running")
        added = {(tuple(it["sourceLabels"]), it["targetLabel"]) for it in endpoint.get("relabelings", [])}
        # The operator adds the label `pod` by itself.
        added.add((("__meta_kubernetes_pod_name",), "pod"))
        assert {(tuple(it["source_labels"]), it["target_label"]) for it in others} == added
    assert not jobs


def test_the_examples_of_the_readme_do_what_they_say(installed: ControlPlane, tmp_path: Path) -> None:
    kustomization, patch, _ = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    (tmp_path / "base").symlink_to(DEPLOY / "base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(kustomization)
    (tmp_path / "mine" / "agent.yaml").write_text(patch)
    rendered = _rendered(installed, tmp_path / "mine")
    agents = _agents(rendered)
    assert AGENTS not in json.dumps(rendered)
    assert agents["metadata"]["namespace"] == "kvm"
    pod = agents["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert set(pod["nodeSelector"]) == {"kubernetes.io/os", "virtsync.dev/kvm", "example.com/hypervisor"}
    assert container["image"] == f"my-registry/virtsync:{__version__}"
    assert container["resources"]["limits"] == {"memory": "512Mi"}
    env = {it["name"]: it.get("value") for it in container["env"]}
    assert env == dict.fromkeys(("NODE_NAME", "POD_NAMESPACE", "POD_UID")) | {
        "VIRTSYNC_SETTLE_POWER": "30s",
        "VIRTSYNC_LOG_FORMAT": "json",
    }


def test_the_readme_says_how_to_leave_the_manager_out(installed: ControlPlane, tmp_path: Path) -> None:
    *_, without = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    (tmp_path / "overlays").symlink_to(DEPLOY / "overlays")
    (tmp_path / "base").symlink_to(DEPLOY / "base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(without)
    everything, rest = _rendered(installed, DEPLOY / "overlays" / "prometheus"), _rendered(installed, tmp_path / "mine")
    left_out = [it for it in everything if it not in rest]
    assert [it for it in rest if it not in everything] == []
    assert {it["metadata"]["labels"][f"{NAME}component"] for it in left_out} == {"manager"}
    assert {"Deployment", "ServiceAccount", "ClusterRoleBinding", "PrometheusRule"} < {it["kind"] for it in left_out}
    assert "manager" not in {it["metadata"]["labels"].get(f"{NAME}component") for it in rest}


@pytest.mark.parametrize("folder", EVERY)
def test_another_namespace_takes_one_line(installed: ControlPlane, tmp_path: Path, folder: str) -> None:
    (tmp_path / "deploy").symlink_to(DEPLOY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(f"namespace: kvm\nresources: [../deploy/{folder}]\n")
    renamed = _rendered(installed, tmp_path / "mine")
    # The README says what to add for the FlowSchemas, which match nothing otherwise.
    assert AGENTS not in json.dumps([it for it in renamed if it["kind"] != "FlowSchema"])
    taken = [it for it in renamed if "monitoring" not in it["apiVersion"]]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": taken})
    installed.kubectl("create", "namespace", "kvm", check=False)  # a dry run makes none
    told = installed.kubectl("apply", "--dry-run=server", "-f", "-", input=manifest).stdout.splitlines()
    assert len(told) == len(taken)


@pytest.fixture(scope="module")
def uninstalled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of its own from which virtsync was taken again, as the documentation says, with a VM in it."""
    with ControlPlane(tmp_path_factory.mktemp("uninstalled")) as running:
        running.kubectl("apply", "-f", str(DEPLOY / "crds"), "-f", str(INSTALL))
        running.install_crds()
        vm = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "web-1"}}
        running.kubectl("create", "-f", "-", input=json.dumps(vm))
        # Nobody here empties a namespace; in a whole cluster a controller does.
        running.kubectl("delete", "--ignore-not-found", "-f", str(INSTALL), "--wait=false")
        yield running


def test_whoever_uninstalls_it_keeps_definition_and_objects(uninstalled: ControlPlane) -> None:
    assert uninstalled.kubectl("get", "kvm", "-o", "name").stdout.split() == ["virtualmachine.virtsync.dev/web-1"]


def test_nothing_else_of_it_stays_in_the_cluster(uninstalled: ControlPlane) -> None:
    kinds = (
        "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,"
        "flowschemas,prioritylevelconfigurations"
    )
    assert uninstalled.kubectl("get", kinds, "-l", f"{NAME}part-of=virtsync", "-o", "name").stdout == ""
