"""Renders deploy/argocd/argocd-cm.yaml from the Lua files beside it: `python -m manifests.argocd`.

The Lua files are in the layout of Argo CD's own repository. The ConfigMap is what its users apply.
"""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "argocd"
RENDERED = FOLDER / "argocd-cm.yaml"
CUSTOMIZATIONS = FOLDER / "resource_customizations"
HEAD = """\
# Rendered by `make manifests` from resource_customizations: change it there.
# A patch for the ConfigMap of Argo CD, see README.md. The folder is also a kustomize component with this patch.
"""


class Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, so that people can read the Lua."""


def _text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


def actions_of(kind: Path) -> dict[str, Any]:
    """The actions of a kind as Argo CD's ConfigMap has them: the script that offers them, and one script for each."""
    scripts = sorted((kind / "actions").glob("*/action.lua"))
    return {
        "discovery.lua": (kind / "actions" / "discovery.lua").read_text(),
        "definitions": [{"name": script.parent.name, "action.lua": script.read_text()} for script in scripts],
    }


def data() -> dict[str, str]:
    """The keys and values of the ConfigMap."""
    found = {}
    for kind in sorted(CUSTOMIZATIONS.glob("*/*")):
        name = f"{kind.parent.name}_{kind.name}"
        found[f"resource.customizations.health.{name}"] = (kind / "health.lua").read_text()
        if (kind / "actions").exists():
            found[f"resource.customizations.actions.{name}"] = _dump(actions_of(kind))
    return found


def render() -> str:
    """The file as it is to be."""
    meta = {"name": "argocd-cm", "namespace": "argocd"}
    return HEAD + _dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data()})


def _dump(value: object) -> str:
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=120)


if __name__ == "__main__":
    RENDERED.write_text(render())
