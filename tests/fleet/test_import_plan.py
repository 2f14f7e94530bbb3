"""Which objects import writes: their names and namespaces, which domains have an object, and what is in an object."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.codec import parse
from controller.api.hypervisor import Hypervisor, HypervisorStatus, Unmanaged, UnmanagedDomain
from controller.api.virtualmachine import Condition, DesiredPowerState, PowerState, VirtualMachine, VmKey
from controller.fleet.import_manifest import Adoption, manifest, remarks
from controller.fleet.import_plan import NAME_LIMIT, Plan, Rule, namespace_by, plan, why_not

SPACE = UUID("4dea22b3-1d52-48f3-8516-782e98ab3fa0")
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

Hosts = dict[str, list[UnmanagedDomain]]


def domain(name: str, power: PowerState = PowerState.RUNNING, **changes: Any) -> UnmanagedDomain:
    """A domain whose UUID follows from its name."""
    return replace(UnmanagedDomain(uuid5(SPACE, name), name, power, "BOOTED", transient=False), **changes)


def vm(key: str, status_uuid: UUID | None = None, *, bound_by: str = "", **spec: Any) -> VirtualMachine:
    namespace, _, name = key.partition("/")
    record = {"name": "x", "uuid": str(status_uuid), "boundBy": bound_by} if status_uuid else {}
    status = {"domain": record} if record else {}
    return parse({"metadata": {"namespace": namespace, "name": name}, "spec": spec, "status": status})


def adopt(hosts: Hosts, *existing: VirtualMachine, nodes: set[str] | None = None, **more: Any) -> Plan:
    return plan(hosts, set(hosts) if nodes is None else nodes, existing, lambda _name: "vms", **more)


def names(planned: Plan) -> list[str]:
    return [f"{one.node}: {one.key.name}" for one in planned.adoptions]


# --- names


@pytest.mark.parametrize(
    "name", ["web-1", "a", "1e3", "web.example.com", "0", "a" * NAME_LIMIT, "1-2-3", "kustomization-1"]
)
def test_an_object_gets_the_name_of_its_domain_if_it_is_a_dns_name(name: str) -> None:
    assert names(adopt({"node-a": [domain(name)]})) == [f"node-a: {name}"]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Web 1", "web-1"),
        ("db_1", "db-1"),
        ("-web-", "web"),
        ("web..1", "web-1"),
        ("web.", "web"),
        ("web-.x", "web-x"),
        ("übung", "bung"),
        ("***", "vm"),
        ("日本", "vm"),
        ("web\n", "web"),
        ("../../etc/passwd", "etc-passwd"),
        ("a" * (NAME_LIMIT + 1), "a" * 40),
        ("a" * 39 + "_b", "a" * 39),
        ("kustomization", "kustomization"),
    ],
)
def test_another_name_becomes_a_slug_with_digits_of_the_uuid(name: str, slug: str) -> None:
    one = domain(name)
    assert names(adopt({"node-a": [one]})) == [f"node-a: {slug}-{one.uuid.hex[:8]}"]


def test_a_name_that_is_taken_in_the_namespace_becomes_a_slug_too() -> None:
    one = domain("web-1")
    slug = [f"node-a: web-1-{one.uuid.hex[:8]}"]
    other: dict[str, Any] = {"nodeName": "node-b", "domain": {"uuid": str(SPACE)}}
    assert names(adopt({"node-a": [one]}, vm("vms/web-1", **other))) == slug
    assert names(adopt({"node-a": [one]}, vm("/web-1", **other))) == slug, "the kustomization might set this namespace"
    assert names(adopt({"node-a": [one]}, vm("dbs/web-1", **other))) == ["node-a: web-1"]
    assert names(adopt({"node-a": [one]}, files={("node-a", "web-1")})) == slug
    assert names(adopt({"node-a": [one]}, files={("node-b", "web-1")})) == ["node-a: web-1"]


def test_a_taken_slug_gets_more_digits_and_then_a_number() -> None:
    one = domain("Web")
    short, full = f"web-{one.uuid.hex[:8]}", f"web-{one.uuid.hex}"
    assert names(adopt({"node-a": [one]}, files={("node-a", short)})) == [f"node-a: {full}"]
    assert names(adopt({"node-a": [one]}, files={("node-a", short), ("node-a", full)})) == [f"node-a: {full}-2"]


def test_a_domain_keeps_its_name_although_a_generated_name_is_equal() -> None:
    generated = domain("A")
    same = domain(f"a-{generated.uuid.hex[:8]}")
    planned = adopt({"node-a": [generated, same]})
    assert {one.domain.name: one.key.name for one in planned.adoptions} == {
        "A": f"a-{generated.uuid.hex}",
        same.name: same.name,
    }


def test_a_generated_name_is_not_that_of_a_file_of_the_same_import() -> None:
    """Objects of different namespaces can have one name, but not in the folder of one node."""
    generated = domain("A")
    same = domain(f"a-{generated.uuid.hex[:8]}")
    planned = plan({"node-a": [generated, same]}, {"node-a"}, (), {"A": "x", same.name: "y"}.__getitem__)
    assert {one.domain.name: one.key for one in planned.adoptions} == {
        "A": VmKey("x", f"a-{generated.uuid.hex}"),
        same.name: VmKey("y", same.name),
    }


def test_of_two_hosts_with_a_name_the_first_gets_it_in_whatever_order_they_are_imported() -> None:
    a, b = domain("router", uuid=uuid5(SPACE, "a")), domain("router", uuid=uuid5(SPACE, "b"))
    hosts = {"node-b": [b], "node-a": [a]}
    both = ["node-a: router", f"node-b: router-{b.uuid.hex[:8]}"]
    assert names(adopt(hosts)) == both
    assert names(adopt(hosts, nodes={"node-b"})) == both[1:]
    first = vm(f"vms/router-{b.uuid.hex[:8]}", nodeName="node-b", domain={"uuid": str(b.uuid)})
    assert names(adopt(hosts, first)) == both[:1]


# --- namespaces


RULES = [Rule(re.compile("db-.*"), "dbs"), Rule(re.compile(".*-test"), "tests"), Rule(re.compile("web"), "w")]


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("db-1", "dbs"),
        ("db-1-test", "dbs"),
        ("a-test", "tests"),
        ("web", "w"),
        ("cobweb", ""),
        ("webs", ""),
        ("WEB", ""),
    ],
)
def test_the_first_rule_that_fits_gives_the_namespace(name: str, namespace: str) -> None:
    assert namespace_by(iter(RULES))(name) == namespace


def test_domains_that_no_rule_fits_are_one_error_that_lists_them_all() -> None:
    hosts = {"node-b": [domain("y"), domain("x\n")], "node-a": [domain("web"), domain("z")], "node-c": [domain("u")]}
    with pytest.raises(ValueError, match=r"^no rule fits .*: node-a: z; node-b: x, y$"):
        plan(hosts, {"node-a", "node-b"}, (), namespace_by(RULES))
    assert names(plan(hosts, {"node-d"}, (), namespace_by(RULES))) == []


def test_equal_names_in_two_namespaces_stay_as_they_are() -> None:
    hosts = {"node-a": [domain("web")], "node-b": [domain("web", uuid=SPACE)]}
    spaces = iter(["x", "y"])
    planned = plan(hosts, set(hosts), (), lambda _name: next(spaces))
    assert [one.key for one in planned.adoptions] == [VmKey("x", "web"), VmKey("y", "web")]


# --- domains that have an object

WEB = domain("web-1")
ELSEWHERE = "node-a: the domain web-1 has the object team/x, which names {}."


@pytest.mark.parametrize(
    ("owner", "told"),
    [
        (vm("team/x", nodeName="node-a", domain={"uuid": str(WEB.uuid).upper()}), None),
        (vm("team/x", domain={"uuid": str(WEB.uuid)}), None),
        (vm("team/x", nodeName="node-b", domain={"uuid": str(WEB.uuid)}), "node-b"),
        (vm("team/x", nodeName="node-a", domain={"name": "web-1"}), None),
        (vm("team/x", WEB.uuid, bound_by="old", nodeName="node-a", domain={"name": "old"}), None),
        (vm("team/x", WEB.uuid, bound_by="old", nodeName="node-b", domain={"name": "old"}), "node-b"),
        (vm("team/x", domain={"name": "web-1"}), "no node"),
    ],
)
def test_a_domain_with_an_object_anywhere_is_left_out(owner: VirtualMachine, told: str | None) -> None:
    assert adopt({"node-a": [WEB]}, owner) == Plan((), (ELSEWHERE.format(told),) if told else ())


def test_an_object_without_a_domain_means_the_domain_of_its_own_name() -> None:
    assert names(adopt({"node-a": [WEB]}, vm("team/web-1", nodeName="node-a"))) == []


@pytest.mark.parametrize(
    "other",
    [
        vm("team/x", nodeName="node-b", domain={"name": "web-1"}),
        vm("team/web-1", nodeName="node-b"),
        vm("team/x", nodeName="node-a", domain={"uuid": str(SPACE)}),
        vm("team/web-1", nodeName="node-a", domain={"name": "old"}),
        vm("team/x", WEB.uuid, bound_by="old", nodeName="node-a", domain={"name": "new"}),
    ],
)
def test_an_object_of_another_domain_leaves_no_domain_out(other: VirtualMachine) -> None:
    assert names(adopt({"node-a": [WEB]}, other)) == ["node-a: web-1"]


# --- one UUID on several hosts

ON, OFF = PowerState.RUNNING, PowerState.STOPPED


@pytest.mark.parametrize(
    ("first", "second", "node"),
    [
        (ON, OFF, "node-a"),
        (OFF, PowerState.PAUSED, "node-b"),
        (PowerState.SAVED, ON, "node-b"),
        (OFF, OFF, ""),
        (ON, ON, ""),
        (ON, PowerState.UNKNOWN, ""),
        (ON, PowerState.CRASHED, ""),
        (PowerState.CRASHED, OFF, ""),
        (PowerState.UNKNOWN, OFF, ""),
    ],
)
def test_a_uuid_on_two_hosts_goes_to_the_only_one_where_it_is_on(
    first: PowerState, second: PowerState, node: str
) -> None:
    hosts = {"node-a": [domain("web", first)], "node-b": [domain("web", second)]}
    planned = adopt(hosts)
    if node:
        other = "node-b" if node == "node-a" else "node-a"
        assert [(one.node, one.also_on) for one in planned.adoptions] == [(node, (other,))]
        assert planned.left_out == ()
        assert names(adopt(hosts, nodes={other})) == []
    else:
        assert planned.adoptions == ()
        (told,) = planned.left_out
        assert told == (
            f"node-a and node-b have the domain web ({uuid5(SPACE, 'web')}), and it does not run on exactly one of"
            " them: left out. Write its object yourself, with the right spec.nodeName."
        )
        assert adopt(hosts, nodes={"node-b"}) == planned
        assert adopt(hosts | {"node-c": []}, nodes={"node-c"}) == Plan((), ())


def test_a_uuid_that_is_off_on_two_hosts_is_named_as_on_the_first() -> None:
    planned = adopt({"node-b": [domain("db", OFF, uuid=SPACE)], "node-a": [domain("web", OFF, uuid=SPACE)]})
    (told,) = planned.left_out
    assert told.startswith(f"node-a and node-b have the domain web ({SPACE})")


# --- properties

SOME_NAMES = st.sampled_from(
    ["web-1", "web_1", "Web-1", "db", "kustomization", f"web-1-{uuid5(SPACE, '1').hex[:8]}", "a.b", "ü", ""]
)
SOME_DOMAINS = st.builds(
    UnmanagedDomain,
    st.integers(0, 6).map(lambda number: uuid5(SPACE, str(number))),
    SOME_NAMES,
    st.sampled_from(PowerState),
    st.just("BOOTED"),
    st.booleans(),
)
SOME_HOSTS = st.dictionaries(
    st.sampled_from(["node-a", "node-b", "node-c"]),
    st.lists(SOME_DOMAINS, max_size=5, unique_by=lambda one: one.uuid),
)


def applied(planned: Plan) -> list[VirtualMachine]:
    return [parse(manifest(one, pinned=True, power_state=False)) for one in planned.adoptions]


@given(SOME_HOSTS, st.randoms(use_true_random=False))
def test_names_are_unique_and_the_order_of_the_input_does_not_matter(hosts: Hosts, random: Any) -> None:
    planned = adopt(hosts)
    keys = [one.key for one in planned.adoptions]
    assert len(set(keys)) == len(keys)
    assert len({one.domain.uuid for one in planned.adoptions}) == len(keys)
    assert [(one.node, one.key.name) for one in planned.adoptions] == sorted(
        (one.node, one.key.name) for one in planned.adoptions
    )

    shuffled = [(node, random.sample(domains, len(domains))) for node, domains in hosts.items()]
    random.shuffle(shuffled)
    assert adopt(dict(shuffled)) == planned


@given(SOME_HOSTS)
def test_a_second_import_after_the_first_writes_nothing(hosts: Hosts) -> None:
    assert adopt(hosts, *applied(adopt(hosts))).adoptions == ()


@given(SOME_HOSTS)
def test_an_import_of_one_host_writes_what_an_import_of_all_hosts_writes_for_it(hosts: Hosts) -> None:
    everything = adopt(hosts)
    for node in hosts:
        alone = adopt(hosts, nodes={node})
        assert alone.adoptions == tuple(one for one in everything.adoptions if one.node == node)


@given(SOME_HOSTS, st.permutations(["node-a", "node-b", "node-c"]))
def test_imports_of_the_hosts_one_after_the_other_write_the_same_objects(hosts: Hosts, order: list[str]) -> None:
    existing: list[VirtualMachine] = []
    written: set[Adoption] = set()
    for node in order:
        planned = adopt(hosts, *existing, nodes={node})
        written |= set(planned.adoptions)
        existing += applied(planned)
    assert written == set(adopt(hosts).adoptions)


@given(SOME_HOSTS)
def test_without_the_flag_no_object_has_a_power_state(hosts: Hosts) -> None:
    assert all(one.desired is None and one.domain_uuid and not one.misunderstood for one in applied(adopt(hosts)))


# --- the object


def adoption(power: PowerState = ON, **changes: Any) -> Adoption:
    return Adoption(VmKey("vms", "web-1"), "node-a", domain("web-1", power, **changes))


def test_the_object_has_node_uuid_and_no_power_state_and_is_not_pruned() -> None:
    assert manifest(adoption(), pinned=True, power_state=False) == {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": "web-1",
            "namespace": "vms",
            "annotations": {
                "argocd.argoproj.io/sync-options": "Prune=false",
                "kustomize.toolkit.fluxcd.io/prune": "disabled",
            },
        },
        "spec": {"nodeName": "node-a", "domain": {"uuid": str(WEB.uuid)}},
    }
    assert manifest(adoption(), pinned=False, power_state=False)["spec"] == {"domain": {"uuid": str(WEB.uuid)}}


@pytest.mark.parametrize("power", PowerState)
def test_only_running_and_stopped_are_ever_written_as_seen(power: PowerState) -> None:
    clear = {PowerState.RUNNING: DesiredPowerState.RUNNING, PowerState.STOPPED: DesiredPowerState.STOPPED}.get(power)
    one = adoption(power)
    assert one.suggested is clear
    assert manifest(one, pinned=True, power_state=True)["spec"].get("powerState") == clear
    unclear = "This state does not show whether the VM should be on: choose the powerState yourself."
    assert (unclear in remarks(one)) == (clear is None)


def test_the_comment_says_what_the_domain_did_and_what_to_know() -> None:
    assert list(remarks(adoption())) == ["The domain web-1 of node-a was Running (BOOTED) when it was imported."]
    odd = domain("web\n1", transient=True, reason="")
    one = replace(adoption(), domain=odd, also_on=("node-b", "node-c"))
    assert list(remarks(one)) == [
        "The domain web 1 of node-a was Running when it was imported.",
        "It is transient: its next stop removes it, and virtsync cannot start it again.",
        "A domain with this UUID is also defined, and off, on node-b and node-c.",
    ]


@pytest.mark.parametrize(
    ("power", "reason", "on"),
    [
        (ON, "BOOTED", True),
        (PowerState.PAUSED, "USER", True),
        (PowerState.CRASHED, "PANICKED", True),
        (PowerState.CRASHED, "CRASHED", False),
        (OFF, "SHUTDOWN", False),
        (PowerState.SAVED, "SAVED", False),
        (PowerState.UNKNOWN, "", False),
    ],
)
def test_a_domain_that_has_a_qemu_is_on(power: PowerState, reason: str, *, on: bool) -> None:
    assert adoption(power, reason=reason).on is on


# --- hosts


def host(
    *, status: str = "True", reason: str = "Active", since: datetime = NOON, unmanaged: Unmanaged | None = None
) -> Hypervisor:
    ready = Condition("Ready", status, reason, "So it is.", since, 1)
    return Hypervisor("node-a", "1", 1, "1", NOON, status=HypervisorStatus(unmanaged=unmanaged, conditions=(ready,)))


@pytest.mark.parametrize(
    ("hypervisor", "why"),
    [
        (host(unmanaged=Unmanaged(1, 1, domains=(WEB,))), ""),
        (host(reason="ObserveOnly", unmanaged=Unmanaged(0, 0)), ""),
        (
            host(status="Unknown", reason="AgentUnreachable", unmanaged=Unmanaged(0, 0)),
            "not Ready since 2026-11-26T12:00:00Z (AgentUnreachable)",
        ),
        (
            host(status="False", reason="ActionBlocked", unmanaged=Unmanaged(0, 0)),
            "not Ready since 2026-11-26T12:00:00Z (ActionBlocked)",
        ),
        (host(status="Unknown", reason="LibvirtUnreachable", since=NEVER), "not Ready (LibvirtUnreachable)"),
        (
            host(status="Unknown", reason="LibvirtUnreachable", since=NEVER.replace(year=1971)),
            "not Ready since 1971-01-01T00:00:00Z (LibvirtUnreachable)",
        ),
        (host(status="Unknown", reason="Pending"), "its agent has not reported yet"),
        (replace(host(), status=HypervisorStatus()), "its agent has not reported yet"),
        (host(), "its agent has not listed the domains yet"),
        (
            host(unmanaged=Unmanaged(700, 9, truncated=True, domains=(WEB,) * 512)),
            "its report has only 512 of 700 domains without an object",
        ),
        (
            host(unmanaged=Unmanaged(7, 1, truncated=True)),
            "its agent does not report the names of domains (--report-unmanaged=false)",
        ),
    ],
)
def test_why_a_host_cannot_be_imported(hypervisor: Hypervisor, why: str) -> None:
    assert why_not(hypervisor) == why
