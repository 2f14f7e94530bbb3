"""The schema of the chart's values: it refuses every name that it does not know, and settings that do not exist."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from controller.agent.settings import LIBVIRT_URI
from controller.agent.settings import Settings as AgentSettings
from controller.api.setting import METADATA, Choice, Duration, Section, Setting, Switch, Text, Truth, Whole
from controller.manager.settings import NO_PAGE
from controller.manager.settings import Settings as ManagerSettings

Json = dict[str, Any]

HTTP_ADDRESS, HTTP_PORT, PAGE_PORT, URI = "--http-address", "--http-port", "--page-port", "--libvirt-uri"
OF_THE_CHART = {"--observe-only", "--log-level", "--log-format", PAGE_PORT}
"""Settings that have a value of their own, for agents and manager, and the port of the page, which is always the same:
`kubectl virtsync page` finds it by its name in the Pod. VIRTSYNC_PAGE_PORT in `env` can only switch the page off."""
FROM_THE_POD = {"NODE_NAME", "KUBECONFIG", "POD_NAMESPACE", "POD_UID"}
"""Variables that the Pod itself sets, or needs no more than that."""
NOT_IN_ENV = ["NODE_NAME", "POD_NAMESPACE", "POD_UID", "LIBVIRT_URI"] + [
    f"VIRTSYNC_{name}" for name in ("OBSERVE_ONLY", "LOG_LEVEL", "LOG_FORMAT", "HTTP_ADDRESS", "HTTP_PORT")
]
"""Variables that the chart sets, or with which other parts of a Pod must agree. In `env` they would be there twice,
which the API server refuses, or the value of the chart would not count."""

TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "object", "additionalProperties": TEXT}
FLAG: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
PORT: Json = {"type": "integer", "minimum": 1, "maximum": 65535}
SHARES: Json = {"type": "integer", "minimum": 1, "maximum": 10000}
LEVELS = ("virtsync", "virtsync-leases", "virtsync-manager")
"""The priority levels of deploy/base/flowcontrol.yaml."""
URL: Json = {"type": "string", "pattern": r"^https?://[^\s{}'\"]+$"}
NAME: Json = {"type": "string", "pattern": r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}


def one_of(*words: str) -> Json:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


def many(it: Json) -> Json:
    """A list."""
    return {"type": "array", "items": it}


def some(**properties: Json) -> Json:
    """An object that may have these entries, and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def every(**properties: Json) -> Json:
    """An object that has all of these entries, and no others: the values of the chart have a default for each."""
    return some(**properties) | {"required": list(properties)}


QUANTITY: Json = {"type": ["string", "integer", "number"], "pattern": r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i)?$"}
QUANTITIES = some(**{"cpu": QUANTITY, "memory": QUANTITY, "ephemeral-storage": QUANTITY})
RESOURCES = some(requests=QUANTITIES, limits=QUANTITIES)
TOLERATION = some(
    key=TEXT,
    operator=one_of("Exists", "Equal"),
    value=TEXT,
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
    tolerationSeconds={"type": "integer"},
)
AFFINITY = some(nodeAffinity=OBJECT, podAffinity=OBJECT, podAntiAffinity=OBJECT)
VARIABLE = some(name={"type": "string", "minLength": 1, "not": {"enum": NOT_IN_ENV}}, value=TEXT, valueFrom=OBJECT) | {
    "required": ["name"],
    "if": {"properties": {"name": {"const": "VIRTSYNC_PAGE_PORT"}}},
    "then": {"properties": {"value": {"const": NO_PAGE}}},
}
POD_SECURITY = some(
    runAsUser={"type": "integer", "minimum": 0},
    runAsGroup={"type": "integer", "minimum": 0},
    runAsNonRoot=FLAG,
    supplementalGroups=many({"type": "integer", "minimum": 0}),
    seccompProfile=some(type=TEXT, localhostProfile=TEXT),
    seLinuxOptions=some(level=TEXT, role=TEXT, type=TEXT, user=TEXT),
    appArmorProfile=some(type=TEXT, localhostProfile=TEXT),
)
SHARE_OR_NUMBER: Json = {"type": ["integer", "string"], "minimum": 1, "pattern": "^([1-9][0-9]?|100)%$"}


def settings(of: type) -> Json:
    """The settings of a command, by the names of their flags, without those that the Pod or another value sets."""
    found = some(**{_name(it): _value(it) for it in _settings(of) if _is_set_by_users(it)})
    if page_port := next((it.default for it in _settings(of) if it.flag == PAGE_PORT), None):
        found["properties"]["http-port"]["not"] = {"const": int(page_port)}
    return found


def _settings(of: type) -> Iterator[Setting]:
    hints = get_type_hints(of)
    for field in fields(of):
        if is_dataclass(hints[field.name]):
            yield from _settings(hints[field.name])
        else:
            yield field.metadata[METADATA]


def _name(it: Setting) -> str:
    return it.flag.removeprefix("--")


def _is_set_by_users(it: Setting) -> bool:
    return it.section != Section.TESTS and it.variable not in FROM_THE_POD and it.flag not in OF_THE_CHART


def _value(it: Setting) -> Json:
    if it.flag == HTTP_PORT:
        # Without the chart, 0 is any free port. The Pod has to name the port, to its probes and to Prometheus.
        return PORT | {"description": it.help.partition(";")[0] + "."}
    if it.flag == HTTP_ADDRESS:
        # The probes and Prometheus ask the address of the Pod, which no other Pod has.
        return one_of("*", "0.0.0.0", "::") | {"description": it.help}  # noqa: S104 - the NetworkPolicy limits access
    match it.kind:
        case Duration(least_s=least_s, most_s=most_s, never=never):
            words = "|never" if never else ""
            kind: Json = {
                "type": ["string", "number"],
                "pattern": rf"^([0-9]+(\.[0-9]+)?(ms|s|m|h)?{words})$",
                "minimum": least_s,
                "maximum": most_s,
            }
        case Whole(least=least, most=most):
            kind = {"type": "integer", "minimum": least, "maximum": most}
        case Choice(words=words_):
            kind = one_of(*words_)
        case Switch() | Truth():
            kind = FLAG
        case Text():
            kind = {"type": "string", "minLength": 1}
            if it.flag == URI:
                kind["pattern"] = f"^{LIBVIRT_URI.pattern}$"
        case _:
            raise TypeError(f"{it.flag}: {it.kind} has no schema")
    return kind | {"description": it.help}


def _component(of: type, **more: Json) -> Json:
    return every(
        nodeSelector=TEXTS,
        affinity=AFFINITY,
        tolerations=many(TOLERATION),
        priorityClassName=NAME,
        resources=RESOURCES,
        settings=settings(of),
        env=many(VARIABLE),
        podAnnotations=TEXTS,
        **more,
    )


def schema() -> Json:
    """The schema of all values."""
    values = every(
        image=every(
            repository={"type": "string", "minLength": 1},
            tag=TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy=one_of("Always", "IfNotPresent", "Never"),
        ),
        imagePullSecrets=many(every(name=NAME)),
        observeOnly=FLAG,
        logLevel=one_of("", "debug", "info", "warning", "error"),
        logFormat=one_of("", "text", "json"),
        agent=_component(
            AgentSettings,
            maxUnavailable=SHARE_OR_NUMBER,
            libvirtFolder={"type": "string", "pattern": "^/"},
            podSecurityContext=POD_SECURITY,
        ),
        manager=_component(ManagerSettings, enabled=FLAG, replicas={"type": "integer", "minimum": 1}),
        crds=every(install=FLAG),
        createNamespace=FLAG,
        networkPolicy=every(
            enabled=FLAG, **{"from": many(OBJECT) | {"minItems": 1}}, apiServerPorts=many(PORT) | {"minItems": 1}
        ),
        flowControl=every(shares=every(**dict.fromkeys(LEVELS, SHARES))),
        scrapeAnnotations=FLAG,
        podMonitor=every(enabled=FLAG, interval=TEXT, labels=TEXTS),
        prometheusRule=every(enabled=FLAG, labels=TEXTS, runbookUrl=URL),
        dashboards=every(enabled=FLAG, labels=TEXTS, annotations=TEXTS),
    )
    # Helm hands these to a chart that is part of another one: `enabled` if the other chart has the usual condition, and
    # then it is true. Alone, the chart has no such value, so it refuses false.
    values["properties"] |= {"global": OBJECT, "enabled": {"const": True}}
    # Over the other socket libvirt lets whoever may connect switch VMs, or refuses the user of these agents.
    values["if"] = {"properties": {"observeOnly": {"const": True}}}
    read_only = {"libvirt-uri": {"pattern": "-ro(&|$)"}}
    values["then"] = {"properties": {"agent": {"properties": {"settings": {"properties": read_only}}}}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "The values of virtsync's chart", **values}
