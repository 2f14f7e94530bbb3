"""Finds out whether Git owns a field of an object, and which tool then undoes a change of this field.

Pure. No function raises an exception, whatever the object is. Sources: the managed fields, in which the API server
records who has set which field (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management),
and the labels and annotations by which Argo CD and Flux recognize their objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from controller.api.json_mapping import Json, as_map, as_text

Path = tuple[str, ...]
"""The names that lead to a field, such as `("spec", "powerState")`."""

ARGO_CD, FLUX = "Argo CD", "Flux"
MANAGERS = {"argocd-controller": ARGO_CD, "kustomize-controller": FLUX, "helm-controller": FLUX}
"""The names that these tools have as field managers, unless they are configured otherwise."""
FLUX_LABELS = {"kustomize.toolkit.fluxcd.io": "Kustomization", "helm.toolkit.fluxcd.io": "HelmRelease"}
"""The prefixes of the labels `name` and `namespace`, and the kind of the object that they name."""
TRACKING_ID = "argocd.argoproj.io/tracking-id"
INSTANCE = "app.kubernetes.io/instance"
"""A label by which Argo CD can track objects. Helm charts have it too, so alone it does not prove Argo CD."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Owner:
    """The tool that applies an object from Git."""

    tool: str
    source: str = ""
    """The object of the tool that names the place in Git, such as `Kustomization flux-system/vms`; empty: not known."""

    def __str__(self) -> str:
        return f"{self.tool} ({self.source})" if self.source else self.tool


def object_owner(raw: Json) -> Owner | None:
    """Return the tool that applies this object from Git; None: there is none."""
    return next(_tracked(raw), None) or next((_owner(raw, tool) for tool, _ in _managed(raw)), None)


def field_owner(raw: Json, field: Path) -> Owner | None:
    """Return the tool that has applied this field, or a part of it, from Git; None: there is none.

    The API server forgets that a tool has set a field when somebody else changes it. For Argo CD with client-side apply
    the object itself says what Git has; otherwise the field has no owner until the tool applies the object again.
    """
    for tool, fields in _managed(raw):
        if _has(fields, tuple(f"f:{name}" for name in field)):
            return _owner(raw, tool)
    owner = object_owner(raw)
    return owner if owner and owner.tool == ARGO_CD and _has(_last_applied(raw), field) else None


def _managed(raw: Json) -> Iterator[tuple[str, Json]]:
    """Yield the tools that have written the object itself, not a subresource such as its status, and their fields."""
    entries = _meta(raw).get("managedFields")
    for entry in map(as_map, entries if isinstance(entries, list) else ()):
        tool = MANAGERS.get(as_text(entry.get("manager")) or "")
        if tool and not entry.get("subresource"):
            yield tool, as_map(entry.get("fieldsV1"))


def _owner(raw: Json, tool: str) -> Owner:
    return next((owner for owner in _tracked(raw) if owner.tool == tool), Owner(tool))


def _tracked(raw: Json) -> Iterator[Owner]:
    """Yield the owners that the labels and annotations name."""
    meta = _meta(raw)
    labels = as_map(meta.get("labels"))
    for prefix, kind in FLUX_LABELS.items():
        if name := as_text(labels.get(f"{prefix}/name")):
            yield Owner(FLUX, f"{kind} {as_text(labels.get(f'{prefix}/namespace')) or ''}/{name}".replace(" /", " "))
    if application := _application(raw) or (_by_argo_cd(raw) and as_text(labels.get(INSTANCE))):
        yield Owner(ARGO_CD, f"Application {application}")


def _application(raw: Json) -> str:
    """Return the Application in the tracking annotation; empty if there is none, or if it is that of another object.

    Argo CD ignores an annotation that somebody has copied from another object.
    Format: `<application>:<group>/<kind>:<namespace>/<name>`.
    """
    application, _, rest = (as_text(_annotations(raw).get(TRACKING_ID)) or "").partition(":")
    kind, _, place = rest.partition(":")
    group = (as_text(raw.get("apiVersion")) or "").partition("/")[0]
    meta = _meta(raw)
    namespace, _, name = place.partition("/")
    same = kind == f"{group}/{raw.get('kind')}" and name == meta.get("name")
    return application if same and namespace == meta.get("namespace", namespace) else ""


def _by_argo_cd(raw: Json) -> bool:
    return any(tool == ARGO_CD for tool, _ in _managed(raw))


def _last_applied(raw: Json) -> Json:
    """Return the object as the last client-side apply had it; empty if there was none."""
    try:
        return as_map(json.loads(as_text(_annotations(raw).get(LAST_APPLIED)) or "{}"))
    except ValueError:
        return {}


def _has(found: object, names: Path) -> bool:
    for name in names:
        if name not in as_map(found):
            return False
        found = as_map(found)[name]
    return True


def _meta(raw: Json) -> Json:
    return as_map(raw.get("metadata"))


def _annotations(raw: Json) -> Json:
    return as_map(_meta(raw).get("annotations"))
