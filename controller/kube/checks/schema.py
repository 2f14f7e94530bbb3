"""Whether the API server serves a type of virtsync, with all fields that this version writes."""

from __future__ import annotations

from controller.api.json_mapping import Json, as_map, json_paths
from controller.api.names import GROUP, VERSION
from controller.kube import paths
from controller.kube.checks.probe import Probe
from controller.runtime.checks import Finding, missing, not_visible, ok

INSTALL = "kubectl apply -f deploy/crds"
OPENAPI = f"/openapi/v3{paths.RESOURCES}"
NAMED_LIMIT = 3
"""How many of the missing fields the finding names."""


def check_type(probe: Probe, plural: str, kind: str, status: type) -> Finding:
    """Check that the type is served, and that its schema has each field of `status`, a dataclass.

    The API server drops a field that the schema lacks, without an error. Raises Transient.
    """
    served = probe.get(paths.RESOURCES)
    if not served.granted and served.status != 404:
        return not_visible(served.message)
    if plural not in {one.get("name") for one in served.body.get("resources") or ()}:
        return missing(f"the API server does not serve {plural} of {GROUP}/{VERSION}", INSTALL)
    published = probe.get(OPENAPI)
    schemas = as_map(as_map(published.body.get("components")).get("schemas"))
    schema = next((one for one in schemas.values() if _is_of(one, kind)), None)
    if schema is None:
        return not_visible(f"{GROUP}/{VERSION} is served, but its schema is not published ({published.status})")
    lacking = [path for path in json_paths(status) if not _has(schema, f"status.{path}")]
    if lacking:
        more = f" and {len(lacking) - NAMED_LIMIT} more" if len(lacking) > NAMED_LIMIT else ""
        named = ", ".join(f"status.{path}" for path in lacking[:NAMED_LIMIT])
        return missing(f"{GROUP}/{VERSION} is served, but is older than this program: it lacks {named}{more}", INSTALL)
    return ok(f"{GROUP}/{VERSION} is served, with all fields of this version")


def _is_of(schema: Json, kind: str) -> bool:
    return {"group": GROUP, "version": VERSION, "kind": kind} in schema.get("x-kubernetes-group-version-kind", ())


def _has(schema: Json, path: str) -> bool:
    """Whether the schema has the field with this path. A list has no part in the path."""
    for key in path.split("."):
        schema = as_map(as_map(schema.get("items", schema).get("properties")).get(key))
    return bool(schema)
