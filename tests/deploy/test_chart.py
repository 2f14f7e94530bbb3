"""The chart as the real Helm renders it: the same objects as those of kustomize, and what each value changes."""

import copy
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import __version__
from lab.helm import CHART
from manifests import rules
from manifests.chart import files
from manifests.chart.schema import schema
from manifests.chart.template import template
from tests.deploy.callers import AGENTS
from tests.deploy.chart import Json, Objects, Rendering, by_name

DEPLOY = files.DEPLOY
DAEMONSET = ("DaemonSet", "virtsync-agent")
DEPLOYMENT = ("Deployment", "virtsync-manager")
WORKLOADS = {"agent": DAEMONSET, "manager": DEPLOYMENT}
NAMESPACE = ("Namespace", AGENTS)
LEVEL = "PriorityLevelConfiguration"
MANAGED_BY = "app.kubernetes.io/managed-by"
POLICY = "helm.sh/resource-policy"
NONROOT = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "supplementalGroups": [106]}
OVERLAYS: dict[str, Json] = {
    "nonroot": {"agent": {"podSecurityContext": NONROOT}},
    "observe-only": {"observeOnly": True},
    "prometheus": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "scrape-annotations": {"scrapeAnnotations": True},
}
"""The values that are to have the same effect as an overlay."""


@pytest.fixture(scope="module")
def rendering(tmp_path_factory: pytest.TempPathFactory) -> Rendering:
    return Rendering(tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="module")
def default(rendering: Rendering) -> Objects:
    """The chart with its default values."""
    return rendering()


def kustomized(folder: str) -> Objects:
    """What a folder of deploy/ has, as Helm would label it."""
    return {key: as_of_helm(it) for key, it in by_name(files.kustomized(DEPLOY / folder)).items()}


def as_of_helm(it: Json) -> Json:
    """The one difference: who manages it. And the order of variables says nothing."""
    changed = copy.deepcopy(it)
    template = changed.get("spec", {}).get("template", {})
    for metadata in (changed["metadata"], template.get("metadata", {})):
        if MANAGED_BY in metadata.get("labels", {}):
            assert metadata["labels"][MANAGED_BY] == "kustomize"
            metadata["labels"][MANAGED_BY] = "Helm"
    return with_sorted_variables(changed)


def with_sorted_variables(it: Json) -> Json:
    for container in it.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
        container["env"].sort(key=lambda variable: variable["name"])
    return it


def compared(objects: Objects) -> Objects:
    """Without the definitions, and in the order of `kustomized`."""
    return {
        key: with_sorted_variables(copy.deepcopy(it))
        for key, it in objects.items()
        if it["kind"] != "CustomResourceDefinition"
    }


def pod_of(objects: Objects, component: str) -> Json:
    pod: Json = objects[WORKLOADS[component]]["spec"]["template"]["spec"]
    return pod


def container_of(objects: Objects, component: str) -> Json:
    (container,) = pod_of(objects, component)["containers"]
    found: Json = container
    return found


def variables_of(objects: Objects, component: str) -> dict[str, str | None]:
    env = container_of(objects, component)["env"]
    assert len({it["name"] for it in env}) == len(env)
    return {it["name"]: it.get("value") for it in env}


def levels_of(objects: Objects) -> dict[str, Json]:
    """The priority levels by their name."""
    return {name: it for (kind, name), it in objects.items() if kind == LEVEL}


def changed_by(default: Objects, other: Objects) -> set[tuple[str, str]]:
    """What differs between two renderings, with what only one of them has."""
    return {key for key in default.keys() | other.keys() if default.get(key) != other.get(key)}


# --- it is deploy/


def test_each_rendered_file_is_as_its_source() -> None:
    rendered = files.render()
    assert {name: (CHART / name).read_text() for name in rendered} == rendered, "run `make manifests`"
    # and none is left of earlier ones
    written_by_hand = {".helmignore", "README.md", "values.yaml", "templates/NOTES.txt", "templates/_helpers.tpl"}
    there = {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    assert there == rendered.keys() | written_by_hand


def test_with_the_default_values_it_is_the_base_but_for_the_namespace(default: Objects) -> None:
    base = kustomized("base")
    # `helm install --create-namespace` creates it.
    assert base.pop(NAMESPACE)
    assert compared(default) == base


def test_the_namespace_can_be_part_of_it_and_is_never_deleted(rendering: Rendering, default: Objects) -> None:
    rendered = rendering({"createNamespace": True})
    assert changed_by(default, rendered) == {NAMESPACE}
    assert rendered[NAMESPACE]["metadata"].pop("annotations") == {POLICY: "keep"}
    assert rendered[NAMESPACE] == kustomized("base")[NAMESPACE]


def test_it_has_the_definitions_and_never_deletes_them(default: Objects) -> None:
    definitions = [copy.deepcopy(it) for it in default.values() if it["kind"] == "CustomResourceDefinition"]
    assert len(definitions) == 2
    for it in definitions:
        assert it["metadata"].pop("annotations") == {POLICY: "keep"}
    assert definitions == files.definitions()


@pytest.mark.parametrize(("overlay", "values"), OVERLAYS.items())
def test_values_make_it_an_overlay(rendering: Rendering, overlay: str, values: Json) -> None:
    assert compared(rendering(values | {"createNamespace": True})) == {
        key: it | {"metadata": it["metadata"] | {"annotations": {POLICY: "keep"}}} if key == NAMESPACE else it
        for key, it in kustomized(f"overlays/{overlay}").items()
    }


def test_the_dashboards_are_those_of_the_folder_grafana(rendering: Rendering, default: Objects) -> None:
    rendered = rendering({"dashboards": {"enabled": True}})
    ((key, expected),) = kustomized("grafana").items()
    assert changed_by(default, rendered) == {key}
    assert rendered[key] == expected


def test_every_overlay_is_compared_with_values() -> None:
    assert OVERLAYS.keys() == {folder.name for folder in (DEPLOY / "overlays").iterdir()}


def test_helm_finds_nothing_to_complain_about(rendering: Rendering) -> None:
    everything = ("podMonitor", "prometheusRule", "dashboards")
    for words in ((), tuple(f"--set={name}.enabled=true" for name in everything), ("--set=manager.enabled=false",)):
        said = rendering.helm.run("lint", "--strict", CHART, f"--namespace={AGENTS}", *words).stdout
        assert "1 chart(s) linted, 0 chart(s) failed" in said
        assert "[WARNING]" not in said


def test_the_notes_name_the_labels_that_the_values_ask_for(rendering: Rendering) -> None:
    """The label of the operating system is there already."""
    words = ["--set=agent.nodeSelector.virtsync\\.dev/kvm=null", "--set-string=agent.nodeSelector.role=kvm"]
    told = rendering.helm.run(
        "install", "virtsync", CHART, f"--namespace={AGENTS}", "--dry-run=client", *words
    ).stdout.partition("\nNOTES:\n")[2]
    assert [line.strip() for line in told.splitlines() if "label" in line][1:] == ["kubectl label node NODE role=kvm"]


def test_its_version_is_that_of_the_program(default: Objects) -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (described["version"], described["appVersion"]) == (__version__, __version__)
    assert container_of(default, "agent")["image"] == f"virtsync/virtsync:{__version__}"


def test_a_place_that_is_gone_from_its_object_is_an_error() -> None:
    with pytest.raises(KeyError, match="imagePullPolicy"):
        template({"spec": {"image": "a"}}, {"spec imagePullPolicy": "imagePullPolicy: b"})


def test_text_that_looks_like_a_template_stays_as_it_is() -> None:
    assert template({"summary": "{{ $value }} VMs"}, {}) == "summary: '{{ \"{{\" }} $value }} VMs'\n"


# --- what values change


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"repository": "registry.example/kvm/virtsync"}, f"registry.example/kvm/virtsync:{__version__}"),
        ({"tag": "1.2.3"}, "virtsync/virtsync:1.2.3"),
        ({"tag": "1.2.3", "digest": f"sha256:{'0' * 64}"}, f"virtsync/virtsync@sha256:{'0' * 64}"),
    ],
)
def test_the_image(rendering: Rendering, image: Json, expected: str) -> None:
    rendered = rendering({"image": image | {"pullPolicy": "Always"}, "imagePullSecrets": [{"name": "mine"}]})
    for component in WORKLOADS:
        container = container_of(rendered, component)
        assert (container["image"], container["imagePullPolicy"]) == (expected, "Always")
        assert pod_of(rendered, component)["imagePullSecrets"] == [{"name": "mine"}]


@pytest.mark.parametrize("component", WORKLOADS)
def test_where_the_pods_run_and_what_they_may_use(rendering: Rendering, default: Objects, component: str) -> None:
    values: Json = {
        "nodeSelector": {"example.com/kvm": "yes"},
        "tolerations": [{"key": "virtsync.dev/kvm", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "mine",
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
        "podAnnotations": {"example.com/a": "b"},
    }
    rendered = rendering({component: values})
    assert changed_by(default, rendered) == {WORKLOADS[component]}
    pod = pod_of(rendered, component)
    assert pod["nodeSelector"] == pod_of(default, component)["nodeSelector"] | values["nodeSelector"]
    assert pod["tolerations"] == values["tolerations"]
    assert pod["affinity"] == pod_of(default, component).get("affinity", {}) | values["affinity"]
    assert pod["priorityClassName"] == "mine"
    memory = container_of(default, component)["resources"]["requests"]["memory"]
    assert container_of(rendered, component)["resources"] == {
        "requests": {"cpu": "1", "memory": memory},
        "limits": {"memory": "1Gi"},
    }
    annotations = rendered[WORKLOADS[component]]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"kubectl.kubernetes.io/default-container": component, "example.com/a": "b"}


@pytest.mark.parametrize(
    ("component", "without_defaults"),
    [
        ("agent", {"nodeSelector": {"kubernetes.io/os": None, "virtsync.dev/kvm": None}}),
        ("manager", {"nodeSelector": {"kubernetes.io/os": None}, "affinity": {"nodeAffinity": None}}),
    ],
)
def test_what_is_left_empty_is_left_out(rendering: Rendering, component: str, without_defaults: Json) -> None:
    pod = pod_of(rendering({component: without_defaults | {"tolerations": [], "priorityClassName": ""}}), component)
    assert {"nodeSelector", "affinity", "tolerations", "priorityClassName"}.isdisjoint(pod)


def test_settings_are_variables_of_their_process(rendering: Rendering, default: Objects) -> None:
    rendered = rendering(
        {
            "logLevel": "debug",
            "logFormat": "json",
            "agent": {
                "settings": {
                    "settle-power": "30s",
                    "brake-count": 5,
                    "settle-pause": "never",
                    "report-unmanaged": False,
                    "resync-api": 7200000,
                    "libvirt-uri": "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock",
                },
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            },
            "manager": {"settings": {"http-port": 9090}},
        }
    )
    added = {"VIRTSYNC_LOG_LEVEL": "debug", "VIRTSYNC_LOG_FORMAT": "json"}
    assert variables_of(rendered, "agent") == variables_of(default, "agent") | added | {
        "VIRTSYNC_SETTLE_POWER": "30s",
        "VIRTSYNC_BRAKE_COUNT": "5",
        "VIRTSYNC_SETTLE_PAUSE": "never",
        "VIRTSYNC_REPORT_UNMANAGED": "false",
        "VIRTSYNC_RESYNC_API": "7200000",
        "LIBVIRT_URI": "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    assert variables_of(rendered, "manager") == variables_of(default, "manager") | added | {
        "VIRTSYNC_HTTP_PORT": "9090"
    }
    assert [it["containerPort"] for it in container_of(rendered, "manager")["ports"]] == [9090, 8081]
    assert [it["containerPort"] for it in container_of(rendered, "agent")["ports"]] == [8080]


def test_who_only_observes_can_name_the_socket(rendering: Rendering) -> None:
    uri = "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock-ro"
    rendered = rendering({"observeOnly": True, "agent": {"settings": {"libvirt-uri": uri}}})
    variables = variables_of(rendered, "agent")
    assert (variables["LIBVIRT_URI"], variables["VIRTSYNC_OBSERVE_ONLY"]) == (uri, "true")
    assert "VIRTSYNC_OBSERVE_ONLY" not in variables_of(rendered, "manager")


def test_who_only_observes_has_no_group_of_libvirt(rendering: Rendering) -> None:
    rendered = rendering({"observeOnly": True, "agent": {"podSecurityContext": NONROOT}})
    (agent,) = (it for it in rendered.values() if it["kind"] == "DaemonSet")
    context = agent["spec"]["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (65534, 65534)
    assert "supplementalGroups" not in context


def test_the_annotations_name_the_port_that_is_set(rendering: Rendering) -> None:
    rendered = rendering({"scrapeAnnotations": True, "agent": {"settings": {"http-port": 9100}}})
    ports = {
        component: rendered[key]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
        for component, key in WORKLOADS.items()
    }
    assert ports == {"agent": "9100", "manager": "8080"}


def test_the_folder_of_libvirts_socket_is_that_of_the_host(rendering: Rendering, default: Objects) -> None:
    rendered = rendering({"agent": {"libvirtFolder": "/srv/libvirt/run"}})
    (volume,) = pod_of(rendered, "agent")["volumes"]
    assert volume["hostPath"] == {"path": "/srv/libvirt/run", "type": "Directory"}
    mounts = "volumeMounts"
    assert container_of(rendered, "agent")[mounts] == container_of(default, "agent")[mounts]


@pytest.mark.parametrize("at_a_time", [20, "25%"])
def test_how_many_agents_are_replaced_at_a_time(rendering: Rendering, at_a_time: Any) -> None:
    spec = rendering({"agent": {"maxUnavailable": at_a_time}})[DAEMONSET]["spec"]
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": at_a_time}


def test_how_many_managers_there_are(rendering: Rendering) -> None:
    assert rendering({"manager": {"replicas": 1}})[DEPLOYMENT]["spec"]["replicas"] == 1


def test_without_the_manager_nothing_of_it_is_left(rendering: Rendering) -> None:
    monitored = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    everything, rest = rendering(monitored), rendering(monitored | {"manager": {"enabled": False}})
    assert changed_by(everything, rest) == {
        key for key, it in everything.items() if it["metadata"]["labels"].get(files.COMPONENT) == "manager"
    }
    assert DEPLOYMENT not in rest
    assert ("PrometheusRule", "virtsync-manager") in everything.keys() - rest.keys()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"crds": {"install": False}}, "CustomResourceDefinition"),
        ({"networkPolicy": {"enabled": False}}, "NetworkPolicy"),
    ],
)
def test_what_can_be_left_out(rendering: Rendering, default: Objects, values: Json, kind: str) -> None:
    without = rendering(values)
    assert changed_by(default, without) == {key for key, it in default.items() if it["kind"] == kind}
    assert kind not in {it["kind"] for it in without.values()}


def test_the_shares_of_the_priority_levels(rendering: Rendering, default: Objects) -> None:
    shares = {name: it["spec"]["limited"]["nominalConcurrencyShares"] for name, it in levels_of(default).items()}
    more = {name: share + 1 for name, share in shares.items()}
    rendered = rendering({"flowControl": {"shares": more}})
    assert changed_by(default, rendered) == {(LEVEL, name) for name in shares}
    for name, it in levels_of(rendered).items():
        assert it["spec"]["limited"] == default[LEVEL, name]["spec"]["limited"] | {
            "nominalConcurrencyShares": more[name]
        }


def test_what_a_large_fleet_needs_is_the_same_with_kustomize_and_helm(rendering: Rendering, tmp_path: Path) -> None:
    section = (DEPLOY.parent / "docs" / "scale.md").read_text().partition("\n## What to set\n")[2].partition("\n## ")[0]
    patch, values = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    folder = DEPLOY / "base"
    kustomization = {"resources": [os.path.relpath(folder, tmp_path)], "patches": [{"path": "scale.yaml"}]}
    (tmp_path / "scale.yaml").write_text(patch)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    expected = {key: as_of_helm(it) for key, it in by_name(files.kustomized(tmp_path)).items()}
    assert levels_of(expected)["virtsync"]["spec"]["limited"]["nominalConcurrencyShares"] == 60
    assert expected.pop(NAMESPACE)
    assert compared(rendering(yaml.safe_load(values))) == expected


def test_who_may_connect_and_where_the_api_server_is(rendering: Rendering, default: Objects) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    rendered = rendering({"networkPolicy": {"from": peers, "apiServerPorts": [8443]}})
    assert changed_by(default, rendered) == {("NetworkPolicy", f"virtsync-{component}") for component in WORKLOADS}
    for component in WORKLOADS:
        key = ("NetworkPolicy", f"virtsync-{component}")
        spec, before = rendered[key]["spec"], default[key]["spec"]
        assert spec["ingress"] == [before["ingress"][0] | {"from": peers}]
        assert spec["egress"] == [{"ports": [{"protocol": "TCP", "port": 8443}]}, before["egress"][1]]


def test_what_the_operator_of_prometheus_selects(rendering: Rendering, default: Objects) -> None:
    labels = {"release": "kube-prometheus-stack"}
    rendered = rendering(
        {
            "podMonitor": {"enabled": True, "interval": "10s", "labels": labels},
            "prometheusRule": {"enabled": True, "labels": labels},
        }
    )
    added = changed_by(default, rendered)
    assert {kind for kind, _ in added} == {"PodMonitor", "PrometheusRule"}
    for key in added:
        assert rendered[key]["metadata"]["labels"].items() > labels.items()
    for component in WORKLOADS:
        (endpoint,) = rendered["PodMonitor", f"virtsync-{component}"]["spec"]["podMetricsEndpoints"]
        assert endpoint["interval"] == "10s"


@pytest.mark.parametrize("end", ["", "/"])
def test_alerts_lead_to_the_runbooks_where_people_read_them(rendering: Rendering, end: str) -> None:
    rendered = rendering({"prometheusRule": {"enabled": True, "runbookUrl": f"http://wiki:8080/kvm/runbooks{end}"}})
    found = {
        rule["alert"]: rule["annotations"]["runbook_url"]
        for (kind, _), it in rendered.items()
        if kind == "PrometheusRule"
        for group in it["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert found == {it["alert"]: f"http://wiki:8080/kvm/runbooks/{it['alert']}/" for it in rules.alerts()}


def test_the_labels_by_which_the_sidecar_finds_the_dashboards(rendering: Rendering) -> None:
    shown = {"enabled": True, "labels": {"mine": "yes"}, "annotations": {"grafana_folder": "KVM"}}
    metadata = rendering({"dashboards": shown})["ConfigMap", "virtsync-dashboards"]["metadata"]
    assert metadata["labels"].items() > {"mine": "yes", "grafana_dashboard": "1"}.items()
    assert metadata["annotations"] == {"grafana_folder": "KVM"}


def test_another_namespace_is_the_one_of_the_release(rendering: Rendering, default: Objects) -> None:
    rendered = rendering({"createNamespace": True}, namespace="elsewhere")
    assert rendered.pop(("Namespace", "elsewhere"))
    assert AGENTS not in str(rendered)
    assert str(rendered).replace("'elsewhere'", f"'{AGENTS}'") == str(default)


# --- what the schema refuses


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loglevel": "debug"}, ("additional properties 'loglevel' not allowed",)),
        ({"enabled": False}, ("/enabled", "must be true")),
        ({"agent": {"nodeSelectr": {}}}, ("/agent", "additional properties 'nodeSelectr' not allowed")),
        (
            {"agent": {"settings": {"settle-pwer": "1s"}}},
            ("/agent/settings", "additional properties 'settle-pwer' not allowed"),
        ),
        ({"manager": {"settings": {"settle-power": "1s"}}}, ("/manager/settings", "'settle-power' not allowed")),
        ({"agent": {"settings": {"node-name": "a"}}}, ("'node-name' not allowed",)),
        ({"agent": {"settings": {"settle-power": "10 s"}}}, ("/agent/settings/settle-power", "'10 s'")),
        ({"agent": {"settings": {"settle-power": "never"}}}, ("/agent/settings/settle-power", "'never'")),
        ({"agent": {"settings": {"workers": 9}}}, ("/agent/settings/workers", "maximum")),
        ({"agent": {"nodeSelector": {"virtsync.dev/kvm": True}}}, ("/agent/nodeSelector", "got boolean, want string")),
        ({"agent": {"tolerations": [{"efect": "NoSchedule"}]}}, ("/agent/tolerations/0", "'efect' not allowed")),
        ({"agent": {"resources": {"limits": {"memory": "1 GB"}}}}, ("/agent/resources/limits/memory", "'1 GB'")),
        ({"agent": {"resources": {"limit": {}}}}, ("/agent/resources", "'limit' not allowed")),
        ({"agent": {"libvirtFolder": "run/libvirt"}}, ("/agent/libvirtFolder", "'run/libvirt'")),
        ({"agent": {"maxUnavailable": 0}}, ("/agent/maxUnavailable",)),
        ({"agent": {"podSecurityContext": {"privileged": True}}}, ("'privileged' not allowed",)),
        ({"agent": {"settings": None}}, ("/agent", "missing property 'settings'")),
        ({"logLevel": "trace"}, ("/logLevel", "'debug', 'info', 'warning', 'error'")),
        ({"image": "mine/virtsync:1.2.3"}, ("/image", "got string, want object")),
        ({"image": {"digest": "0123"}}, ("/image/digest",)),
        ({"networkPolicy": {"apiServerPorts": []}}, ("/networkPolicy/apiServerPorts", "minItems")),
        ({"prometheusRule": {"runbookUrl": "wiki/runbooks"}}, ("/prometheusRule/runbookUrl", "'wiki/runbooks'")),
        # An empty list would let everybody in.
        ({"networkPolicy": {"from": []}}, ("/networkPolicy/from", "minItems")),
        ({"agent": {"settings": {"http-port": 0}}}, ("/agent/settings/http-port", "minimum")),
        ({"manager": {"settings": {"http-port": 0}}}, ("/manager/settings/http-port", "minimum")),
        # The page has this port.
        ({"manager": {"settings": {"http-port": 8081}}}, ("/manager/settings/http-port", "'not' failed")),
        # `kubectl virtsync page` asks the port that the Pod names.
        ({"manager": {"env": [{"name": "VIRTSYNC_PAGE_PORT", "value": "9000"}]}}, ("/manager/env/0/value", "'off'")),
        # Neither the kubelet nor Prometheus could connect.
        *(
            ({component: {"settings": {"http-address": "127.0.0.1"}}}, (f"/{component}/settings/http-address",))
            for component in ("agent", "manager")
        ),
        # Each of them ends the agents at their start.
        ({"agent": {"settings": {"settle-power": -1}}}, ("/agent/settings/settle-power", "minimum")),
        ({"agent": {"settings": {"lease-duration": 301}}}, ("/agent/settings/lease-duration", "maximum")),
        ({"agent": {"settings": {"libvirt-uri": "qemu+ssh://kvm-7/system"}}}, ("/agent/settings/libvirt-uri",)),
        # Over this socket libvirt would let them switch VMs, or would refuse them as the user nobody.
        (
            {
                "observeOnly": True,
                "agent": {"settings": {"libvirt-uri": "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock"}},
            },
            ("/agent/settings/libvirt-uri", "-ro"),
        ),
        # Otherwise they would be there twice, or the probes would ask another port.
        *(
            ({component: {"env": [{"name": name, "value": "1"}]}}, (f"/{component}/env/0/name", "'not' failed"))
            for component in ("agent", "manager")
            for name in (
                "VIRTSYNC_OBSERVE_ONLY",
                "VIRTSYNC_HTTP_ADDRESS",
                "VIRTSYNC_HTTP_PORT",
                "LIBVIRT_URI",
                "POD_UID",
            )
        ),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(rendering: Rendering, values: Json, words: tuple[str, ...]) -> None:
    said = rendering.refused(values)
    for word in words:
        assert word in said


def test_the_schema_has_each_setting_that_people_set() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    settings = schema()["properties"]["agent"]["properties"]["settings"]["properties"]
    assert len(settings) > 20
    assert [name for name in settings if f"`--{name}" not in documented] == []
    flags = set(re.findall(r"^\| `--([a-z-]+)", documented, re.MULTILINE))
    of_the_pod_or_the_chart = {"node-name", "kubeconfig", "lease-namespace", "namespace", "identity"} | {
        "observe-only",
        "log-level",
        "log-format",
        "page-port",
    }
    for_tests = {"schedule-confirm", "renew-after", "boot-id"}
    assert flags - settings.keys() == of_the_pod_or_the_chart | for_tests


@pytest.mark.parametrize("enabled", [True, False])
def test_a_chart_of_somebody_else_can_have_this_one_as_a_part(
    rendering: Rendering, default: Objects, tmp_path: Path, *, enabled: bool
) -> None:
    part = {"name": "virtsync", "version": __version__, "condition": "virtsync.enabled"}
    described = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [part]}
    values = {"virtsync": {"enabled": enabled}, "global": {"imageRegistry": "mine"}}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(described))
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(CHART, tmp_path / "charts" / "virtsync")
    rendered = rendering.helm.template(tmp_path, namespace=AGENTS)
    assert by_name([it for it in yaml.safe_load_all(rendered) if it]) == (default if enabled else {})
