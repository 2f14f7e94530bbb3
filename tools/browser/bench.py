"""Measures how fast the page is: its first view, its longest task, and a change that appears."""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from browser.chromium import chromium, tab
from browser.objects import fleet
from browser.stage import stage
from controller.api.virtualmachine import VmKey
from controller.kube import paths
from controller.kube.client import MERGE_PATCH, Api, load
from lab.manager import Manager

LOADS = 5
CHANGES = 30
FIRST_VIEW_MS, LONGEST_TASK_MS, CHANGE_MS = 1000, 200, 1000
"""What the page promises (docs/page.md)."""
OBSERVE_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((entry) => entry.duration)))
  .observe({ type: "longtask", buffered: true });
"""
FIRST_ROW = "() => document.querySelectorAll('#vms tr').length > 0"
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@dataclass(slots=True)
class Figures:
    """What was measured, in milliseconds and MiB."""

    vms: int
    cold_ms: float
    """The first view of the first browser: the manager reads all objects in this time."""
    first_view_ms: list[float]
    longest_task_ms: float
    change_ms: list[float]
    document_kb: float
    private_mib: tuple[float, float]
    """The private memory of the manager before anybody looked, and while somebody looks."""

    def lines(self) -> list[str]:
        """The figures as lines for people, with what is promised."""
        change, first = sorted(self.change_ms), sorted(self.first_view_ms)
        before, now = self.private_mib
        return [
            f"{self.vms} VMs; the document has {self.document_kb:.0f} kB",
            f"first view while the manager reads all objects: {self.cold_ms:.0f} ms (goal {FIRST_VIEW_MS})",
            f"first view: {statistics.median(first):.0f} ms, at most {first[-1]:.0f} (goal {FIRST_VIEW_MS})",
            f"longest task of the page: {self.longest_task_ms:.0f} ms (goal {LONGEST_TASK_MS}; 0: none above 50)",
            (
                f"from a status patch to the row: {statistics.median(change):.0f} ms, at most {change[-1]:.0f}"
                f" (goal {CHANGE_MS})"
            ),
            f"private memory of the manager: {before:.0f} MiB, while somebody looks {now:.0f} MiB",
        ]


def measure(folder: Path, vms: int) -> Figures:
    """Measure the page of this number of VMs."""
    made, hosts = fleet(vms)
    with stage(folder, made, hosts) as manager, chromium() as browser:
        api = load(folder / "controlplane" / "kubeconfig")
        before = _private_mib(manager)
        cold_ms, _ = _load(browser, manager)
        loads = [_load(browser, manager) for _ in range(LOADS)]
        change_ms, longest_ms, document_kb = _live(browser, manager, api)
        return Figures(
            vms=vms,
            cold_ms=cold_ms,
            first_view_ms=[one for one, _ in loads],
            longest_task_ms=max(longest_ms, *(task for _, task in loads)),
            change_ms=change_ms,
            document_kb=document_kb,
            private_mib=(before, _private_mib(manager)),
        )


def _load(browser: Browser, manager: Manager) -> tuple[float, float]:
    """Open the page once: the milliseconds to its first paint, and its longest task."""
    with tab(browser) as opened:
        opened.page.add_init_script(OBSERVE_TASKS)
        opened.page.goto(manager.page)
        opened.page.wait_for_selector("#live.live")
        opened.page.wait_for_function(FIRST_ROW)
        opened.page.wait_for_function(FIRST_PAINT)
        return float(opened.page.evaluate(FIRST_PAINT)), _longest(opened.page)


def _live(browser: Browser, manager: Manager, api: Api) -> tuple[list[float], float, float]:
    """Change VMs while the page is open: how long each change takes to appear, the longest task, the document in kB."""
    with tab(browser) as opened:
        page = opened.page
        page.add_init_script(OBSERVE_TASKS)
        response = page.goto(f"{manager.page}?namespace=team-01")
        size = len(response.body()) / 1000 if response else 0.0
        page.wait_for_selector("#live.live")
        page.evaluate(
            """() => {
              window.seen = {};
              new MutationObserver(() => {
                for (const row of document.querySelectorAll("#vms tr")) {
                  window.seen[row.dataset.key + row.cells[5].textContent] ??= Date.now();
                }
              }).observe(document.getElementById("vms"), { childList: true });
            }"""
        )
        found = []
        for number in range(CHANGES):
            key, text = VmKey("team-01", f"vm-{1 + 20 * (number + 1):05}"), f"change {number}"
            path = f"{paths.virtual_machine(key)}/status"
            raw = api.request("GET", paths.virtual_machine(key))
            conditions = raw["status"]["conditions"]
            conditions[0] |= {"status": "False", "reason": "Settling", "message": text}
            api.request("PATCH", path, {"status": {"conditions": conditions}}, content_type=MERGE_PATCH)
            written_ms = time.time() * 1000
            name = json.dumps(f"{key}{text}")
            page.wait_for_function(f"() => window.seen[{name}]")
            found.append(float(page.evaluate(f"() => window.seen[{name}]")) - written_ms)
        return found, _longest(page), size


def _longest(page: Page) -> float:
    tasks: list[Any] = page.evaluate("() => window.longTasks")
    return max(map(float, tasks), default=0.0)


def _private_mib(manager: Manager) -> float:
    """The private memory of a process (RssAnon)."""
    status = Path(f"/proc/{manager.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024
