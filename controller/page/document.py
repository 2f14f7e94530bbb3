"""The page as a whole document. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from controller.api.clock import api_time
from controller.page.markup import Html, tag
from controller.page.parts import HOST_HEADINGS, VM_HEADINGS, host_element, regions, title, vm_element
from controller.page.view import View

NUMBERS = {"For", "VMs", "Running", "Not ready", "Unmanaged"}
"""The headings of the columns of numbers."""
REFRESH_S = 2
"""How often a browser without JavaScript loads the page again while the manager reads the objects."""


def document(view: View, now: datetime) -> str:
    """Return the HTML document of a view. `now` is the time to which ages refer."""
    part = regions(view)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title(view)),
        *_refresh(view),
        tag("link", rel="icon", href="icon.svg"),
        tag("link", rel="stylesheet", href="style.css"),
        tag("script", src="page.js", defer=True),
    )
    hosts = [host_element(row, now) for row in view.hosts.rows]
    vms = [vm_element(row, now) for row in view.vms.rows]
    body = tag(
        "body",
        tag("a", "Skip to the VMs", href="#vms-heading", class_="skip"),
        tag("header", tag("h1", "virtsync"), _as_of(now)),
        tag(
            "main",
            part["notice"],
            part["summary"],
            _section("hosts", "Hosts", _table("hosts", "Hosts", HOST_HEADINGS, hosts), part["hosts-pager"]),
            _section(
                "vms",
                "Virtual machines",
                part["filters"],
                part["reasons"],
                _table("vms", "Virtual machines", VM_HEADINGS, vms),
                part["vms-pager"],
            ),
        ),
        tag("footer", part["served"]),
        data_now=api_time(now),
    )
    return f"<!doctype html>{tag('html', head, body, lang='en')}"


def _refresh(view: View) -> Iterable[Html]:
    if not view.fleet.complete:
        yield tag("noscript", tag("meta", http_equiv="refresh", content=str(REFRESH_S)))


def _as_of(now: datetime) -> Html:
    """Return what a person reads without JavaScript. The script says whether the page is live."""
    written = api_time(now.replace(microsecond=0))
    return tag("p", "As of ", tag("time", written, datetime=written, data_fixed=True), id="live", role="status")


def _section(name: str, heading: str, *content: Html) -> Html:
    label = f"{name}-heading"
    return tag("section", tag("h2", heading, id=label, tabindex="-1"), *content, aria_labelledby=label)


def _table(name: str, heading: str, columns: Sequence[str], rows: Sequence[Html]) -> Html:
    cells = (tag("th", text, scope="col", class_="number" if text in NUMBERS else None) for text in columns)
    body = tag("tbody", *rows, id=name)
    table = tag("table", tag("caption", heading), tag("thead", tag("tr", *cells)), body, class_=f"of-{name}")
    # A keyboard can scroll only what can have the focus.
    return tag("div", table, class_="scroll", role="region", aria_label=f"{heading}, table", tabindex="0")
