"""The page of a real manager about real VMs, in a real Chromium."""

import re
import sys
import time
from collections.abc import Callable
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.chromium import Scheme, Tab, tab
from controller.api.clock import duration
from lab.guest import Guest
from lab.manager import Manager
from lab.world import World, runs

HIGHLIGHT = """() => {
  for (const row of document.querySelectorAll("tbody tr")) row.classList.add("changed");
  for (const one of document.getAnimations()) { one.pause(); one.currentTime = 0; }
}"""
"""Shows all rows as in the moment of a change, when their background has the most color."""
AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SAMPLES = [0, 1, 59, 60, 61, 599, 600, 3599, 3600, 3661, 86399, 86400, 90000, 90061, 10**6, 10**8, -5, 12.7]


def row(world: World, guest: Guest) -> str:
    return f'#vms tr[data-key="{world.name}/{guest.name}"]'


def address(world: World, manager: Manager, query: str = "") -> str:
    return f"{manager.page}?namespace={world.name}{query}"


def live(opened: Tab, url: str) -> Page:
    """Open the page, and return it when it is live."""
    opened.page.goto(url)
    expect(opened.page.locator("#live")).to_have_text("Live")
    return opened.page


def running(world: World, *names: str) -> list[Guest]:
    """VMs that run, as their objects say."""
    guests = [world.start(name) for name in names]
    world.apply(*guests, powerState="Running")
    world.start_agent()
    for guest in guests:
        world.until(guest, runs, "running")
    return guests


def focused(page: Page, attribute: str) -> str | None:
    found: str | None = page.evaluate(f"() => document.activeElement.getAttribute('{attribute}')")
    return found


def tab_until(page: Page, there: Callable[[], bool]) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if there():
            return
    raise AssertionError("the focus never came there")


def test_without_javascript_the_page_is_complete_and_filters(browser: Browser, world: World, manager: Manager) -> None:
    web, db = running(world, "web", "db")
    with tab(browser, scripts=False) as opened:
        page = opened.page
        page.goto(manager.page)
        expect(page.locator(row(world, web))).to_contain_text("Running")
        expect(page.locator("#live")).to_contain_text("As of ")
        page.get_by_label("Search").fill(web.name)
        page.get_by_role("button", name="Show").click()
        expect(page.locator(row(world, web))).to_be_visible()
        expect(page.locator(row(world, db))).to_have_count(0)
        page.get_by_role("link", name="Show all").click()
        expect(page.locator(row(world, db))).to_be_visible()


def test_a_change_of_a_vm_appears_without_a_reload(
    opened: Tab, world: World, manager: Manager, capsys: pytest.CaptureFixture[str]
) -> None:
    (guest,) = running(world, "web")
    page = live(opened, address(world, manager))
    expect(page.locator(row(world, guest))).to_contain_text("InSync")
    page.evaluate(
        """() => {
          window.notReloaded = true;
          new MutationObserver(() => {
            const power = document.querySelector("#vms tr td")?.textContent;
            if (power === "Stopped") {
              window.stoppedAt ??= Date.now();
            }
          }).observe(document.getElementById("vms"), { childList: true });
        }"""
    )
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
    begun_ms = time.time() * 1000
    world.virsh("destroy", guest.name)
    page.wait_for_function("() => window.stoppedAt")
    took_ms = page.evaluate("() => window.stoppedAt") - begun_ms
    with capsys.disabled():
        sys.stdout.write(f"\nfrom `virsh destroy` to the row on the page: {took_ms:.0f} ms\n")
    line = page.locator(row(world, guest))
    expect(line).to_contain_text("Held")
    expect(line).to_contain_text("held by ann")
    expect(line).to_contain_text("Somebody stopped the VM on the host.")
    expect(page.locator("#summary")).to_contain_text("held")
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann-")
    expect(line).to_contain_text("InSync")
    world.kubectl("delete", "kvm", guest.name)
    expect(line).to_have_count(0)
    assert page.evaluate("() => window.notReloaded")


def test_the_maintenance_of_a_host_appears_and_its_name_filters(opened: Tab, world: World, manager: Manager) -> None:
    web, _ = running(world, "web", "db")
    page = live(opened, manager.page)
    patch = '{"spec":{"maintenance":{"mode":"Hold","reason":"new <b>RAM</b>"}}}'
    world.controlplane.kubectl("patch", "kvmhost", world.node, "--type=merge", "-p", patch)
    line = page.locator(f'#hosts tr[data-key="{world.node}"]')
    expect(line).to_contain_text("Hold, Quiet")
    expect(line).to_contain_text("Maintenance Hold: new <b>RAM</b>")
    line.get_by_role("link").click()
    expect(page).to_have_url(f"{manager.page}?node={world.node}")
    expect(page.get_by_label("Node", exact=True)).to_have_value(world.node)
    expect(page.locator(row(world, web))).to_be_visible()
    page.go_back()
    expect(page).to_have_url(manager.page)
    expect(page.get_by_label("Node", exact=True)).to_have_value("")


def test_what_users_write_is_shown_as_text_and_the_policy_refuses_scripts(
    opened: Tab, world: World, manager: Manager
) -> None:
    hostile = "<img src=x onerror=\"document.title='broken into'\"><script>alert(1)</script>"
    (guest,) = running(world, "web")
    page = live(opened, address(world, manager))
    world.kubectl("annotate", "kvm", guest.name, f"hold.virtsync.dev/ann={hostile}")
    world.virsh("destroy", guest.name)
    line = page.locator(row(world, guest))
    expect(line).to_contain_text(hostile)
    assert line.locator("img, script").count() == 0
    assert "broken" not in page.title()
    refused = page.evaluate(
        """() => new Promise((done) => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) => {
            found.push(event.effectiveDirective);
            if (found.length === 3) {
              done(found.sort());
            }
          });
          const script = document.createElement("script");
          script.textContent = "document.title = 'broken into'";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://elsewhere.example/x.png";
          document.body.append(image);
          const style = document.createElement("style");
          style.textContent = "body { display: none }";
          document.body.append(style);
        })"""
    )
    assert refused == ["img-src", "script-src-elem", "style-src-elem"]
    assert "broken" not in page.title()
    assert len(opened.problems) == 3
    assert all("Content Security Policy" in problem for problem in opened.problems)
    opened.problems.clear()


def test_everything_can_be_done_with_the_keyboard(opened: Tab, world: World, manager: Manager) -> None:
    web, db = running(world, "web", "db")
    page = live(opened, manager.page)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the VMs"
    expect(page.locator(":focus")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert focused(page, "id") == "vms-heading"
    page.keyboard.press("Tab")
    assert focused(page, "id") == "text"
    page.keyboard.type(web.name)
    expect(page.locator(row(world, db))).to_have_count(0)
    expect(page.locator(row(world, web))).to_be_visible()
    assert focused(page, "id") == "text"
    expect(page).to_have_url(f"{manager.page}?text={web.name}")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    expect(page.locator(row(world, db))).to_be_visible()
    page.keyboard.press("Tab")
    assert focused(page, "id") == "namespace"
    page.keyboard.type(world.name)
    expect(page).to_have_url(f"{manager.page}?namespace={world.name}")
    tab_until(page, lambda: focused(page, "data-focus") == "reason InSync")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"[?&]reason=InSync"))
    assert focused(page, "data-focus") == "reason InSync"
    tab_until(page, lambda: focused(page, "data-focus") == f"{world.name}/{web.name} node")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_focus_stays_where_it_is_when_its_row_changes(opened: Tab, world: World, manager: Manager) -> None:
    (guest,) = running(world, "web")
    page = live(opened, address(world, manager))
    link = page.locator(row(world, guest)).get_by_role("link")
    link.focus()
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
    expect(page.locator(row(world, guest))).to_contain_text("held by ann")
    assert focused(page, "data-focus") == f"{world.name}/{guest.name} node"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_in_light_and_in_dark(
    browser: Browser, world: World, manager: Manager, scheme: Scheme
) -> None:
    """As far as axe-core can tell: landmarks, labels, headings, contrast, focus."""
    running(world, "web")
    gone = world.define("gone")
    world.virsh("undefine", gone.name)
    world.apply(gone, powerState="Running")
    world.until_ready(gone, "DomainNotFound")
    with tab(browser, scheme=scheme) as opened:
        page = live(opened, manager.page)
        expect(page.locator(row(world, gone))).to_contain_text("DomainNotFound")
        page.evaluate(HIGHLIGHT)
        page.evaluate(AXE)
        found: dict[str, Any] = page.evaluate("(tags) => axe.run({ runOnly: tags })", RULES)
        problems = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
        assert len(found["passes"]) > 20
        assert problems == []
        assert opened.problems == []


def test_light_and_dark_follow_the_system(browser: Browser, manager: Manager) -> None:
    colors = []
    for scheme in ("light", "dark"):
        with tab(browser, scheme=scheme) as opened:
            opened.page.goto(manager.page)
            colors.append(opened.page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    assert colors[0] != colors[1]


def test_a_connection_that_is_lost_is_told_and_comes_back(opened: Tab, world: World, manager: Manager) -> None:
    guest = world.define()
    world.apply(guest)
    port = str(urlsplit(manager.page).port)
    page = live(opened, address(world, manager))
    manager.kill()
    expect(page.locator("#live")).to_contain_text("Not live: the connection is lost. Shown is the state at ")
    expect(page.locator(row(world, guest))).to_be_visible()
    manager.start(page_port=port)
    expect(page.locator("#live")).to_have_text("Live")
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
    expect(page.locator(row(world, guest))).to_contain_text("held by ann")
    # Chromium itself writes each failed connection to the console.
    assert all("ERR_CONNECTION_REFUSED" in one or "ERR_INCOMPLETE" in one for one in opened.problems)
    opened.problems.clear()


def test_the_script_writes_an_age_as_the_manager_does(opened: Tab) -> None:
    script = (resources.files("controller.page") / "assets/page.js").read_text()
    source = script[script.index("const UNITS") : script.index("function tick")]
    written = opened.page.evaluate(f"(values) => {{ {source} return values.map(duration); }}", SAMPLES)
    assert written == [duration(value) for value in SAMPLES]
