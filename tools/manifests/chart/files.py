"""The files of deploy/chart that are rendered from others: templates, dashboards, Chart.yaml and the schema."""

import json
import subprocess
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from controller import __version__
from lab.binaries import find_assets
from manifests.chart.schema import schema
from manifests.chart.template import template

Json = dict[str, Any]

DEPLOY = Path(__file__).parents[3] / "deploy"
CHART = DEPLOY / "chart"
COMPONENT = "app.kubernetes.io/component"
FILES = {"policy": "policies", "user": "user-roles"}
"""The name of the template for a component; otherwise it is that of the component."""
FILE_OF_KIND = {
    "ConfigMap": "dashboards",
    "CustomResourceDefinition": "crds",
    "Namespace": "namespace",
    "PodMonitor": "monitoring",
    "PrometheusRule": "monitoring",
}
SOURCES = {"crds": "crds", "dashboards": "grafana", "monitoring": "overlays/prometheus"}
"""The folder of deploy/ that a template comes from, if it is not the base."""
HEAD = """\
{{- /* Rendered by `make manifests` from deploy/%s: change it there.
What values decide is in tools/manifests/chart/places.yaml. */ -}}
"""
DESCRIBED = f"""\
# Rendered by `make manifests` from tools/manifests/chart/files.py: change it there.
apiVersion: v2
name: virtsync
description: Keeps libvirt VMs on KVM hosts in the power state that their VirtualMachine objects say
type: application
version: {__version__}
appVersion: {__version__}
# A Pod's token names its node since 1.32. The suffix lets builds such as v1.32.1-eks-1 pass.
kubeVersion: '>=1.32.0-0'
home: https://github.com/virtsync/virtsync
sources:
  - https://github.com/virtsync/virtsync
keywords: [kubernetes, libvirt, kvm, qemu, gitops]
"""


def kustomized(folder: Path) -> list[Json]:
    """What `kubectl kustomize` renders of a folder."""
    done = subprocess.run([find_assets() / "kubectl", "kustomize", folder], check=True, capture_output=True, text=True)
    return [*yaml.safe_load_all(done.stdout)]


def definitions() -> list[Json]:
    """The definitions of the resources."""
    return [yaml.safe_load(file.read_text()) for file in sorted((DEPLOY / "crds").iterdir())]


def objects() -> list[Json]:
    """Everything that the chart can install."""
    return [
        *definitions(),
        *kustomized(DEPLOY / "overlays" / "prometheus"),  # it has the base
        *kustomized(DEPLOY / "grafana"),
    ]


def templates(all_objects: Iterable[Json]) -> dict[str, str]:
    """The templates, by the name of their file: one for each component, and one for each thing that is optional."""
    places = yaml.safe_load(Path(__file__).with_name("places.yaml").read_text())
    documents: dict[str, list[tuple[list[str], str]]] = {}
    for it in all_objects:
        kind, component = it["kind"], it["metadata"].get("labels", {}).get(COMPONENT, "")
        of_kind = {
            path: text.replace("COMPONENT", component).replace("OBJECT", it["metadata"]["name"])
            for path, text in places["kinds"].get(kind, {}).items()
        }
        conditions = [places["conditions"][key] for key in (kind, component) if key in places["conditions"]]
        name = FILE_OF_KIND.get(kind) or FILES.get(component, component)
        documents.setdefault(name, []).append((conditions, f"---\n{template(it, of_kind)}"))
    return {f"templates/{name}.yaml": HEAD % SOURCES.get(name, "base") + _joined(of) for name, of in documents.items()}


def _joined(documents: list[tuple[list[str], str]]) -> str:
    text = ""
    for conditions, of_one in groupby(documents, key=itemgetter(0)):
        content = "".join(document for _, document in of_one)
        condition = "and " + " ".join(conditions) if len(conditions) > 1 else "".join(conditions)
        text += f"{{{{- if {condition} }}}}\n{content}{{{{- end }}}}\n" if conditions else content
    return text


def render() -> dict[str, str]:
    """The text of each file, by its path in the chart."""
    dashboards = {f"dashboards/{file.name}": file.read_text() for file in (DEPLOY / "grafana").glob("*.json")}
    return {
        "Chart.yaml": DESCRIBED,
        "values.schema.json": json.dumps(schema(), indent=2) + "\n",
        **templates(objects()),
        **dashboards,
    }
