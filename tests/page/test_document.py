"""The document that a browser gets, and that is complete without JavaScript."""

import re
from dataclasses import replace

import pytest

from controller.api.conditions import Readiness
from controller.api.virtualmachine import Hold, LastStop, PowerState, StopCause
from controller.page.document import document
from controller.page.parts import CLASSES
from controller.page.query import Query
from controller.page.rows import vm_row
from controller.page.view import VMS_PER_PAGE, Fleet, view
from tests.page.rows import NOW, SERVED, before, fleet, host, machine, vm
from tests.page.test_markup import HOSTILE, Read

STOP = LastStop(StopCause.EXTERNAL, before(hours=2), "Somebody stopped the VM on the host.")


def page(shown: Fleet, **query: object) -> str:
    return document(view(shown, Query(**query), SERVED), NOW)  # type: ignore[arg-type]


def text(html: str) -> str:
    return " ".join(Read(re.sub(r"(?=<)", " ", html)).text.split())


def test_a_vm_is_told_with_its_power_what_is_desired_why_not_and_for_how_long_and_its_last_stop() -> None:
    row = vm(
        "Held",
        message="The VM is stopped and should be running.",
        holds=(Hold("ann", "backup"),),
        power_state=PowerState.STOPPED,
        last_stop=STOP,
        restart_count=2,
    )
    assert (
        "shop/ web-1 Stopped Running Held held by ann 12m The VM is stopped and should be running. node-a"
        " External, 2h ago, restarts: 2 Somebody stopped the VM on the host."
    ) in text(page(fleet(row)))


def test_a_vm_that_is_only_observed_has_no_node_or_an_old_report_says_so() -> None:
    vms = replace(vm("Held", generation=4), desired="", node=""), replace(vm("InSync", generation=4), name="web-2")
    shown = text(page(fleet(*vms)))
    assert "web-1 Running only observed Held old spec 12m The VM is as the spec asks. no node" in shown
    assert "2 VMs 1 held 1 old spec Hosts" in shown
    assert "web-2 Running Running InSync old spec 12m" in shown


def test_a_host_is_told_with_its_reason_its_counts_and_what_to_know() -> None:
    shown = text(page(fleet(host("node-a", ready=False, maintenance="new RAM"))))
    assert "node-a AgentUnreachable 3h5m 7 6 1 - 0.1.0 Hold, not acknowledged The agent was not heard." in shown
    assert "Maintenance Hold: new RAM." in shown


def test_the_summary_counts_what_is_there_and_leaves_out_what_is_not() -> None:
    shown = text(page(fleet(vm("InSync"), vm("Held", "web-2"), host("a"), host("b", ready=False))))
    assert "2 hosts 1 active 1 not active 2 VMs 1 as wanted 1 held Hosts" in shown


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_of_a_user_becomes_markup(hostile: str) -> None:
    """Also those that the API server would refuse, as in names."""
    harmless, dangerous = (
        page(
            fleet(
                vm_row(
                    machine(
                        given,
                        given,
                        namespace=given,
                        node=given,
                        message=given,
                        holds=(Hold(given, given),),
                        last_stop=replace(STOP, message=given),
                    )
                ),
                host(given, maintenance=given, ready=False, agent_version=given),
                trouble=given,
            ),
            node=given,
            namespace=given,
            reason=given,
            text=given,
        )
        for given in ("harmless", hostile)
    )
    assert hostile not in dangerous
    assert [name for name, _ in Read(dangerous).elements] == [name for name, _ in Read(harmless).elements]
    assert [sorted(given) for _, given in Read(dangerous).elements] == [
        sorted(given) for _, given in Read(harmless).elements
    ]


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    elements = Read(page(fleet(vm("Held"), host()))).elements
    sources = [given[name] for _, given in elements for name in ("src", "href", "action") if name in given]
    assert {"style.css", "page.js", "icon.svg"} <= set(sources)
    assert all(re.fullmatch(r"#[\w-]+|[\w-]+\.(css|js|svg)|\./.*", source or "") for source in sources)
    assert not [given for _, given in elements if any(name.startswith("on") or name == "style" for name in given)]
    assert {name for name, _ in elements} & {"style", "iframe", "object", "embed", "base", "img"} == set()


def test_each_control_has_a_label_and_each_table_headings() -> None:
    elements = Read(page(fleet(vm("Held"), host()))).elements
    labels = {given["for"] for name, given in elements if name == "label"}
    assert labels == {given["id"] for name, given in elements if name in {"input", "select"}}
    assert [given.get("scope") for name, given in elements if name == "th"].count("col") == 18
    assert [given.get("scope") for name, given in elements if name == "th"].count("row") == 2
    assert dict(elements)["html"] == {"lang": "en"}


def test_a_large_fleet_comes_in_pages_that_links_lead_to() -> None:
    many = fleet(*(vm("InSync", f"vm-{number:04}") for number in range(5000)))
    first = page(many)
    assert f"1 to {VMS_PER_PAGE} of 5000 VMs" in text(first)
    assert ("a", {"href": "./?page=2", "data-focus": "VMs Next"}) in Read(first).elements
    assert first.count("<tr data-key=") == VMS_PER_PAGE
    assert len(first) < 150_000
    assert f"{5000 - VMS_PER_PAGE + 1} to 5000 of 5000 VMs Previous" in text(page(many, page=50))


def test_a_filter_with_too_many_choices_is_a_text_field() -> None:
    hosts = fleet(*(host(f"node-{number:03}") for number in range(501)))
    assert ("input", {"type": "text", "name": "node", "id": "node", "value": "node-7", "autocomplete": "off"}) in Read(
        page(hosts, node="node-7")
    ).elements


def test_what_is_chosen_is_in_the_form_also_if_no_vm_has_it() -> None:
    elements = Read(page(fleet(vm("InSync")), reason="Held", drift=True, text="web")).elements
    assert ("option", {"value": "Held", "selected": None}) in elements
    assert ("input", {"type": "checkbox", "name": "drift", "id": "drift", "value": "1", "checked": None}) in elements
    assert ("a", {"href": "./", "data-focus": "clear"}) in elements


def test_the_page_says_when_it_is_out_of_date_or_not_complete() -> None:
    assert "Out of date: the API server does not answer" in text(page(fleet(trouble="the API server does not answer")))
    reading = page(fleet(complete=False))
    assert "The manager is reading the VMs and hosts. The rest will follow." in text(reading)
    assert ("meta", {"http-equiv": "refresh", "content": "2"}) in Read(reading).elements
    assert "http-equiv" not in page(fleet())


def test_an_empty_cluster_is_a_page_too() -> None:
    assert "0 hosts 0 VMs Hosts" in text(page(fleet()))
    assert "No VMs" in text(page(fleet()))


def test_it_says_who_serves_it_and_since_which_moment_it_is() -> None:
    shown = text(page(fleet()))
    assert "As of 2026-11-27T12:00:00Z" in shown
    assert "virtsync 0.1.0. Served by the manager manager-1, which leads. Read-only." in shown


def test_each_meaning_has_a_color_in_the_style_sheet() -> None:
    from importlib import resources  # noqa: PLC0415

    style = (resources.files("controller.page") / "assets/style.css").read_text()
    assert set(CLASSES) == set(Readiness)
    for class_ in (*CLASSES.values(), "new"):
        assert f".mark.{class_}" in style
