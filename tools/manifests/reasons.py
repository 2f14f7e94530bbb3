"""Renders what pages of docs/reasons repeat of docs/api.md: `python -m manifests.reasons`.

Of each page, this is the table below its title: the condition, and what Argo CD and Flux make of it. docs/api.md has
these facts, and tests compare them with the code, Argo CD and Flux. The index is rendered as a whole: its order and its
groups, and the first sentence of each page.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.api.conditions import READINESS, Readiness
from controller.api.virtualmachine import Reason
from controller.presentation.vms import NOT_WANTED

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "reasons"
INDEX = FOLDER / "README.md"
BEGIN = "<!-- Rendered by `make manifests` from docs/api.md. -->"
END = "<!-- The end of what is rendered. -->"
BLOCK = re.compile(rf"{re.escape(BEGIN)}\n.*?{re.escape(END)}\n", re.DOTALL)
FLUX = {"Healthy": "current", "Suspended": "current", "Progressing": "in progress", "Degraded": "failed"}
"""What Flux makes of an object, with the expressions of deploy/flux, for each health that Argo CD shows."""
KSTATUS = {"Current": "current", "InProgress": "in progress", "Failed": "failed"}
GROUPS = {
    Readiness.READY: "The VM is as its spec asks.",
    Readiness.RECONCILING: "virtsync works on it, or waits.",
    Readiness.STALLED: "Only you can help.",
    Readiness.HELD: "virtsync must not act.",
    Readiness.UNKNOWN: "The state is not known.",
}
"""What is written below the title of each group. The titles are the words by which the commands and the page count."""
HEAD = """\
<!-- Rendered by `make manifests` from docs/api.md and the pages of this folder: change it there. -->

# Reasons

`kubectl get kvm` shows a word in the column `REASON`: the reason of the condition `Ready`. Here is a page for each:
what it means, what virtsync does next, and what you can do. `kubectl virtsync status NAME` prints the address of the
page. [api.md](../api.md#ready-and-why) has the whole table.

The commands on a page are for the VM `web-1` on the host `node-a`, in the namespace of your context: replace the names,
or add `-n`. A line that begins with `node-a#` is typed on the host, as root. If Flux or Argo CD owns the object, change
its spec in Git instead: they revert what kubectl has changed
([gitops.md](../gitops.md#who-wins-when-a-person-changes-an-object)). `kubectl virtsync` is [a
plugin](../kubectl-virtsync.md#install).

A page says what Argo CD shows with [its health script](../../deploy/argocd/README.md), and how Flux judges the object
with [its health expressions](../../deploy/flux/README.md) and without them. While the agent has not read the newest
spec, both wait, whatever the reason, unless the state is not known.
"""
HOSTS = "## Hosts\n\nThe reasons of `Ready`, and of `Quiesced` during maintenance, of a Hypervisor.\n"


@dataclass(frozen=True)
class Row:
    """What docs/api.md says of a reason of one condition. `kstatus`: for VirtualMachines alone."""

    kind: str
    condition: str
    status: str
    reason: str
    meaning: str
    health: str
    kstatus: str = ""


def of_vms() -> dict[str, Row]:
    """The rows about VirtualMachines, by reason, in the order of the document."""
    section = _api().partition("\n## Ready, and why\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (True|False|Unknown) \| (.*?) \| (.*) \| (\w+) \|$", section, re.MULTILINE)
    statuses = kstatus()
    return {
        reason: Row("VirtualMachine", "Ready", status, reason, meaning, health, statuses[reason])
        for status, reasons, meaning, health in rows
        for reason in re.findall(r"`(\w+)`", reasons)
    }


def of_hosts(condition: str) -> dict[str, Row]:
    """The rows about a condition of Hypervisors, by reason."""
    rows = _api().partition(f"\n| status of `{condition}` |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (\w+) \| `(\w+)` \| (.*) \| (\w+) \|$", rows, re.MULTILINE)
    return {
        reason: Row("Hypervisor", condition, status, reason, meaning, health)
        for status, reason, meaning, health in found
    }


def kstatus() -> dict[str, str]:
    """What kstatus makes of each reason of a VirtualMachine."""
    section = _api().partition("\n## What kstatus makes of it\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(Current|InProgress|Failed)` \| (.*) \|$", section, re.MULTILINE)
    return {reason: status for status, words in rows for reason in re.findall(r"`(\w+)`", words)}


def of_reason(reason: str) -> list[Row]:
    """The rows about a reason: at most one about VirtualMachines and one about Hypervisors."""
    return [rows[reason] for rows in (of_vms(), of_hosts("Ready"), of_hosts("Quiesced")) if reason in rows]


def reasons() -> list[str]:
    """The reasons that have a page, in the order of the document."""
    return list(of_vms() | of_hosts("Ready") | of_hosts("Quiesced"))


def facts(reason: str) -> str:
    """The rendered part of the page of a reason."""
    lines = ["| object | condition | Argo CD | Flux | Flux without expressions |", "|---|---|---|---|---|"]
    for row in of_reason(reason):
        cells = (row.kind, _condition(row), row.health, FLUX[row.health], without_expressions(row))
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    return f"{BEGIN}\n\n{table}\n\n{END}\n"


def with_facts(page: str, reason: str) -> str:
    """The page with what is rendered as it is to be. A page without such a part gets it below its title."""
    if BLOCK.search(page):
        return BLOCK.sub(lambda _: facts(reason), page)
    title, _, rest = page.partition("\n")
    return f"{title}\n\n{facts(reason)}{rest}"


def index() -> str:
    """The index as it is to be."""
    return "\n".join([HEAD, *_groups(), HOSTS, *_table([*of_hosts("Ready"), *of_hosts("Quiesced")])])


def _groups() -> Iterator[str]:
    for readiness, sentence in GROUPS.items():
        title = "As wanted" if readiness is Readiness.READY else NOT_WANTED[readiness].capitalize()
        yield f"## {title}\n\n{sentence}\n"
        yield from _table(reason for reason in of_vms() if READINESS[Reason(reason)] is readiness)


def _table(names: Iterable[str]) -> Iterator[str]:
    yield "| reason | |\n|---|---|"
    yield from (f"| [`{name}`]({name}.md) | {_meaning(name)} |" for name in names)
    yield ""


def _meaning(reason: str) -> str:
    """The first sentence of what the page of a reason says it means, without a colon at its end."""
    text = (FOLDER / f"{reason}.md").read_text().partition("\n## What it means\n\n")[2].partition("\n\n")[0]
    return re.split(r"(?<=\.) ", text.replace("\n", " "))[0].rstrip(":")


def _condition(row: Row) -> str:
    abnormal = READINESS[Reason(row.reason)].value[1] if row.kind == "VirtualMachine" else None
    return f"`{row.condition}` is {row.status}" + (f", `{abnormal}` is True" if abnormal else "")


def without_expressions(row: Row) -> str:
    """What Flux makes of an object without the expressions of deploy/flux."""
    if row.kind == "VirtualMachine":
        return KSTATUS[row.kstatus]
    if row.condition == "Quiesced":
        return "as `Ready`"
    return "current" if row.status == "True" else "in progress"


def _api() -> str:
    return (DOCS / "api.md").read_text()


if __name__ == "__main__":
    INDEX.write_text(index())
    for name in reasons():
        page = FOLDER / f"{name}.md"
        page.write_text(with_facts(page.read_text(), name))
