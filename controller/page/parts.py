"""The parts of the page: the rows of its two tables, and the regions around them. Pure.

Each row and each region is one element with an attribute `data-v`, which differs if the content differs. So an open
page replaces only what has changed (messages.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from hashlib import blake2b

from controller.api.clock import api_time, duration
from controller.api.conditions import Readiness
from controller.page.markup import Html, joined, tag
from controller.page.query import Query, Sort
from controller.page.rows import HostRow, VmRow
from controller.page.view import Part, View
from controller.presentation.vms import NOT_WANTED, OLD_SPEC, ONLY_OBSERVED

HOST_HEADINGS = (
    "Name",
    "Reason",
    "For",
    "VMs",
    "Running",
    "Not ready",
    "Unmanaged",
    "Version",
    "Maintenance",
    "What to know",
)
VM_HEADINGS = ("Name", "Power", "Desired", "Reason", "For", "Message", "Node", "Last stop")
SORTS = {
    Sort.TROUBLE: "Trouble first",
    Sort.NEWEST: "Newest change first",
    Sort.NAME: "Name",
    Sort.NODE: "Node",
}
CHOICES_LIMIT = 500
"""With more choices than this, a filter is a text field, because a list of thousands is slow and of no help."""
CLASSES = {meaning: meaning.name.lower() for meaning in Readiness}


def vm_element(row: VmRow, now: datetime) -> Html:
    """Return the row of a VM."""
    key = vm_key(row)
    power = "" if row.as_wanted or not row.desired or row.power == row.desired else "differs"
    return tag(
        "tr",
        tag("th", tag("span", f"{row.namespace}/", class_="quiet"), row.name, scope="row"),
        tag("td", row.power, class_=power or None),
        tag("td", row.desired or _quiet(ONLY_OBSERVED)),
        tag("td", _reason(row), *_notes(row)),
        tag("td", _age(row.since, now), class_="number"),
        tag("td", row.message, class_="text"),
        tag("td", _node_link(row.node, f"{key} node") if row.node else _quiet("no node")),
        tag("td", *_last_stop(row, now), class_="text"),
        data_key=key,
        data_v=row.version,
    )


def host_element(row: HostRow, now: datetime) -> Html:
    """Return the row of a host."""
    return tag(
        "tr",
        tag("th", _node_link(row.name, f"host {row.name}"), scope="row"),
        tag("td", _mark("ready" if row.ready else "stalled", row.reason)),
        tag("td", _age(row.since, now), class_="number"),
        *(_number(count) for count in (row.vms, row.running)),
        _number(row.not_ready, "differs" if row.not_ready else ""),
        _number(row.unmanaged),
        tag("td", row.agent_version),
        tag("td", _mark("held", row.maintenance) if row.maintenance else ""),
        tag("td", *_lines(row.remarks), class_="text"),
        data_key=row.name,
        data_v=row.version,
    )


def vm_key(row: VmRow) -> str:
    """Return the key of the row of a VM."""
    return f"{row.namespace}/{row.name}"


def regions(view: View) -> dict[str, Html]:
    """Return the regions by their ids."""
    made = (
        _region("notice", *_notice(view), role="alert"),
        _region("summary", *_summary(view)),
        _region("hosts-pager", *_pager(view.hosts, "hosts", "hosts_page", view.query)),
        _region("reasons", *_reasons(view)),
        _region("filters", _form(view)),
        _region("vms-pager", *_pager(view.vms, "VMs", "page", view.query)),
        _region("served", *_served(view)),
    )
    return dict(made)


def title(view: View) -> str:
    """Return the title of the page, which a browser shows for a tab."""
    return f"{view.not_wanted} of {len(view.fleet.vms)} VMs not as wanted - virtsync"


# --- cells


def _reason(row: VmRow) -> Html:
    return _mark(CLASSES[row.meaning], row.reason)


def _notes(row: VmRow) -> Iterator[Html]:
    if row.outdated:
        yield _note(OLD_SPEC)
    if row.holds:
        yield _note(f"held by {row.holds}")


def _last_stop(row: VmRow, now: datetime) -> Iterator[str]:
    if stop := row.stop:
        restarts = f", restarts: {row.restarts}" if row.restarts else ""
        yield joined([f"{stop.cause}, ", _age(stop.time, now), f" ago{restarts}"])
        yield _note(stop.message)


def _age(time: datetime | None, now: datetime) -> Html:
    if time is None:
        return _quiet("never reported")
    written = api_time(time)
    return tag("time", duration((now - time).total_seconds()), datetime=written, title=written)


def _number(count: int | None, class_: str = "") -> Html:
    return tag("td", "-" if count is None else str(count), class_=f"number {class_}".strip())


def _mark(class_: str, text: str) -> Html:
    return tag("span", text, class_=f"mark {class_}")


def _note(text: str) -> Html:
    return tag("small", text)


def _quiet(text: str) -> Html:
    return tag("span", text, class_="quiet")


def _lines(texts: Iterable[str]) -> Iterator[Html]:
    return (tag("span", text, class_="line") for text in texts)


def _node_link(name: str, key: str) -> Html:
    return tag("a", name, href=Query(node=name).address(), data_focus=key)


# --- regions


def _region(name: str, *content: str, role: str | None = None) -> tuple[str, Html]:
    inner = joined(content)
    version = blake2b(inner.encode(), digest_size=6).hexdigest()
    return name, tag("div", inner, id=name, role=role, data_v=version)


def _notice(view: View) -> Iterator[Html]:
    if view.fleet.trouble:
        yield tag("p", f"Out of date: {view.fleet.trouble}")
    elif not view.fleet.complete:
        yield tag("p", "The manager is reading the VMs and hosts. The rest will follow.")


def _summary(view: View) -> Iterator[Html]:
    hosts = len(view.fleet.hosts)
    yield _tiles(
        "Hosts",
        (str(hosts), "hosts", "", None),
        (str(view.hosts_active), "active", "ready", None),
        (str(hosts - view.hosts_active), "not active", "stalled", None),
        (str(view.hosts_in_maintenance), "in maintenance", "held", None),
    )
    not_wanted = Query(drift=True).address()
    yield _tiles(
        "VMs",
        (str(len(view.fleet.vms)), "VMs", "", "./"),
        (str(view.counts[None]), "as wanted", "ready", None),
        *(
            (
                str(view.counts[meaning]),
                words,
                CLASSES[meaning] if meaning is not Readiness.READY else "new",
                not_wanted,
            )
            for meaning, words in NOT_WANTED.items()
        ),
    )


def _tiles(label: str, *tiles: tuple[str, str, str, str | None]) -> Html:
    """Return counts. The first one is always there, the others only if they are not 0."""
    shown = [tile for place, tile in enumerate(tiles) if place == 0 or tile[0] != "0"]
    return tag("ul", *(_tile(*tile) for tile in shown), class_="tiles", aria_label=label)


def _tile(count: str, words: str, class_: str, address: str | None) -> Html:
    inner = (tag("strong", count), " ", tag("span", words, class_=f"mark {class_}" if class_ else None))
    return tag("li", tag("a", *inner, href=address, data_focus=f"tile {words}") if address else joined(inner))


def _reasons(view: View) -> Iterator[Html]:
    links = [
        tag(
            "li",
            tag(
                "a",
                reason,
                " ",
                tag("strong", str(count)),
                href=view.query.changed(reason="" if reason == view.query.reason else reason).address(),
                aria_current="true" if reason == view.query.reason else None,
                data_focus=f"reason {reason}",
            ),
        )
        for reason, count in view.reasons
    ]
    if links:
        yield tag("nav", tag("ul", *links, class_="chips"), aria_label="Filter by reason")


def _form(view: View) -> Html:
    query = view.query
    clear = tag("a", "Show all", href="./", data_focus="clear") if query.filtered else Html()
    check = tag("input", type="checkbox", name="drift", id="drift", value="1", checked=query.drift)
    return tag(
        "form",
        _field(
            "Search", "text", tag("input", type="search", name="text", id="text", value=query.text, autocomplete="off")
        ),
        _chooser("Namespace", "namespace", query.namespace, view.namespaces),
        _chooser("Node", "node", query.node, view.nodes),
        _chooser("Reason", "reason", query.reason, [reason for reason, _ in view.reasons]),
        _field("Order", "sort", _select("sort", query.sort, SORTS.items())),
        tag("div", check, tag("label", "Only not as wanted", for_="drift"), class_="check"),
        tag("button", "Show", type="submit", id="show"),
        clear,
        method="get",
        action="./",
        role="search",
        aria_label="VMs to show",
    )


def _chooser(label: str, name: str, chosen: str, choices: Iterable[str]) -> Html:
    every = list(choices)
    if len(every) > CHOICES_LIMIT:
        return _field(label, name, tag("input", type="text", name=name, id=name, value=chosen, autocomplete="off"))
    if chosen and chosen not in every:
        every.append(chosen)
    return _field(label, name, _select(name, chosen, [("", "All"), *((one, one) for one in every)]))


def _select(name: str, chosen: str, choices: Iterable[tuple[str, str]]) -> Html:
    options = (tag("option", words, value=str(value), selected=value == chosen) for value, words in choices)
    return tag("select", *options, name=name, id=name)


def _field(label: str, name: str, control: Html) -> Html:
    return tag("div", tag("label", label, for_=name), control, class_="field")


def _pager(part: Part[VmRow] | Part[HostRow], what: str, field: str, query: Query) -> Iterator[Html]:
    last = part.first + len(part.rows) - 1
    place = f"{part.first} to {last} of {part.total} {what}" if part.total else f"No {what}"
    steps = (("Previous", part.page - 1, part.page > 1), ("Next", part.page + 1, part.page < part.pages))
    links = [
        tag("a", words, href=query.changed(**{field: to}).address(), data_focus=f"{what} {words}")
        for words, to, there in steps
        if there
    ]
    if part.pages > 1 or what == "VMs":
        yield tag("span", place)
    if part.pages > 1:
        yield tag("nav", *links, aria_label=f"Pages of {what}")


def _served(view: View) -> Iterator[Html]:
    served = view.served
    leads = "leads" if served.leads else "does not lead"
    yield tag("p", f"virtsync {served.version}. Served by the manager {served.manager}, which {leads}. Read-only.")
