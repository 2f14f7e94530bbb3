"""The pages of docs/reasons: one for each reason, with what docs/api.md says of it."""

import re

import pytest

from controller.api.conditions import READINESS
from controller.api.hypervisor import HypervisorReason
from controller.api.virtualmachine import Reason
from manifests import reasons

NAMES = reasons.reasons()
SECTIONS = ["## What it means", "## What virtsync does next", "## What you can do"]


def test_each_reason_has_a_page_and_each_page_a_reason() -> None:
    pages = {page.stem for page in reasons.FOLDER.glob("*.md")} - {"README"}
    assert pages == set(Reason) | set(HypervisorReason)
    assert pages == set(NAMES)


@pytest.mark.parametrize("reason", NAMES)
def test_a_page_says_what_it_means_what_is_next_and_what_you_can_do(reason: str) -> None:
    page = (reasons.FOLDER / f"{reason}.md").read_text()
    assert re.findall(r"^#+ .*$", page, re.MULTILINE) == [f"# {reason}", *SECTIONS]
    assert "```console\n" in page.partition(SECTIONS[-1])[2]


@pytest.mark.parametrize("reason", NAMES)
def test_a_page_has_the_facts_of_the_reference(reason: str) -> None:
    page = (reasons.FOLDER / f"{reason}.md").read_text()
    assert reasons.BLOCK.search(page)
    assert reasons.with_facts(page, reason) == page, "run `make manifests`"


def test_a_change_of_a_fact_changes_the_page() -> None:
    page = (reasons.FOLDER / "Settling.md").read_text()
    outdated = page.replace("Progressing", "Healthy")
    assert outdated != page
    assert reasons.with_facts(outdated, "Settling") == page


def test_a_new_page_gets_the_facts_below_its_title() -> None:
    page = "# Settling\n\n## What it means\n"
    assert reasons.with_facts(page, "Settling") == f"# Settling\n\n{reasons.facts('Settling')}\n## What it means\n"


def test_the_facts_are_those_of_the_code() -> None:
    for reason in Reason:
        status, abnormal = READINESS[reason].value
        row = f"| VirtualMachine | `Ready` is {status}{f', `{abnormal}` is True' if abnormal else ''} |"
        assert row in reasons.facts(reason)


def test_a_reason_of_both_objects_has_a_row_for_each() -> None:
    both = set(Reason) & set(HypervisorReason)
    assert both == {"ObserveOnly", "ActionBlocked", "LibvirtUnreachable", "AgentUnreachable", "Pending"}
    for reason in both:
        assert [row.kind for row in reasons.of_reason(reason)] == ["VirtualMachine", "Hypervisor"]


def test_the_index_is_as_the_pages_and_the_reference() -> None:
    index = reasons.INDEX.read_text()
    assert index == reasons.index(), "run `make manifests`"
    assert re.findall(r"^\| \[`(\w+)`\]\(\1\.md\) \| .+ \|$", index, re.MULTILINE) == [
        *(reason for group in reasons.GROUPS for reason in reasons.of_vms() if READINESS[Reason(reason)] is group),
        *reasons.of_hosts("Ready"),
        *reasons.of_hosts("Quiesced"),
    ]
