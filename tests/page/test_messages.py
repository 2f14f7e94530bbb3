"""What an open page is told."""

from datetime import timedelta
from typing import Any

from controller.page.document import document
from controller.page.messages import Shown, message
from controller.page.query import Query, Sort
from controller.page.rows import HostRow, VmRow
from controller.page.view import View, view
from tests.page.rows import NOW, SERVED, fleet, host, vm
from tests.page.test_markup import Read


def seen(*rows: VmRow | HostRow, **query: Any) -> View:
    return view(fleet(*rows), Query(**query), SERVED)


def told(shown: View, before: Shown) -> tuple[dict[str, Any], Shown]:
    message_, after = message(shown, before, NOW)
    assert message_
    return message_, after


def test_a_page_of_which_nothing_is_known_gets_everything() -> None:
    one, two = vm("Held", "web-1"), vm("InSync", "web-2")
    sent, _ = told(seen(one, two, host()), Shown())
    assert sent["now"] == "2026-11-27T12:00:00Z"
    assert sent["title"] == "1 of 2 VMs not as wanted - virtsync"
    assert sent["tables"]["vms"]["order"] == (("shop/web-1", one.version), ("shop/web-2", two.version))
    assert set(sent["tables"]["vms"]["rows"]) == {"shop/web-1", "shop/web-2"}
    assert set(sent["tables"]["hosts"]["rows"]) == {"node-a"}


def test_what_it_gets_at_first_is_what_the_document_has() -> None:
    """So a browser that has just loaded the document replaces nothing."""
    shown = seen(vm("Held", "web-1"), vm("InSync", "web-2"), host())
    sent, _ = told(shown, Shown())
    html = document(shown, NOW)
    parts = [
        *sent["regions"].values(),
        *sent["tables"]["vms"]["rows"].values(),
        *sent["tables"]["hosts"]["rows"].values(),
    ]
    assert len(parts) > 5
    assert all(part in html for part in parts)


def test_a_change_sends_only_the_row_and_the_regions_that_differ() -> None:
    fine, other = vm("InSync", "web-1"), vm("InSync", "web-2")
    _, before = told(seen(fine, other, host()), Shown())
    sent, after = told(seen(vm("Held", "web-1"), other, host()), before)
    assert list(sent["tables"]) == ["vms"]
    assert list(sent["tables"]["vms"]["rows"]) == ["shop/web-1"]
    assert [key for key, _ in sent["tables"]["vms"]["order"]] == ["shop/web-1", "shop/web-2"]
    assert set(sent["regions"]) == {"summary", "reasons", "filters"}
    assert message(seen(vm("Held", "web-1"), other, host()), after, NOW)[0] is None


def test_time_alone_changes_nothing() -> None:
    shown = seen(vm("Held"), host())
    _, before = told(shown, Shown())
    assert message(shown, before, NOW + timedelta(days=1))[0] is None


def test_a_row_that_only_moves_is_not_sent_again() -> None:
    rows = vm("Held", "a", minutes=5), vm("Held", "b", minutes=3)
    _, before = told(seen(*rows), Shown())
    sent, _ = told(seen(*rows, sort=Sort.NEWEST), before)
    assert [key for key, _ in sent["tables"]["vms"]["order"]] == ["shop/b", "shop/a"]
    assert sent["tables"]["vms"]["rows"] == {}


def test_a_vm_that_is_gone_is_not_in_the_order() -> None:
    _, before = told(seen(vm("InSync", "a"), vm("InSync", "b")), Shown())
    sent, _ = told(seen(vm("InSync", "b")), before)
    assert [key for key, _ in sent["tables"]["vms"]["order"]] == ["shop/b"]
    assert sent["tables"]["vms"]["rows"] == {}


def test_a_hostile_text_is_escaped_in_a_message_too() -> None:
    sent, _ = told(seen(vm("Held", message="<img src=x onerror=alert(1)>")), Shown())
    row = sent["tables"]["vms"]["rows"]["shop/web-1"]
    assert "img" not in [name for name, _ in Read(row).elements]
    assert "&lt;img" in row
