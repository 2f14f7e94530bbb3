"""The commands and the page call things as kubectl's columns do, which are API."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
import pytest

from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.cli.vm.views import drift, hosts, status, top
from controller.page.parts import HOST_HEADINGS, VM_HEADINGS
from tests.api.documents import CRD, HYPERVISOR_CRD

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
VM = VirtualMachine(VmKey("shop", "web-1"), "u", 1, "1", NOW, "node-a")
SCREEN = top.frame(top.Fleet([VM], []), top.Choice(), NOW, 24).lines
DETAILS = [click.unstyle(line)[2:11].rstrip() for line in status.in_detail(VM, "no agent", NOW)[1:]]
OURS = {
    "vms": {"for", "holds", "next", "more", ""},
    "hosts": {"for", "whattoknow"},
}
"""What kubectl cannot show: how long a reason has lasted, who holds a VM, what is next, and more than one message."""


def words(headings: Iterable[str]) -> set[str]:
    return {heading.replace(" ", "").casefold() for heading in headings}


def kubectl(crd: dict[str, Any]) -> set[str]:
    """The columns of `kubectl get -A -o wide`."""
    columns = (column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"])
    return words(columns) | {"namespace", "name"}


@pytest.mark.parametrize(
    "headings",
    [
        status.headings(namespaces=True),
        drift.HEADINGS,
        next(line for line in SCREEN if line.startswith("NAMESPACE")).split(),
        DETAILS,
        VM_HEADINGS,
    ],
    ids=["status", "drift", "top", "status NAME", "page"],
)
def test_what_is_shown_of_a_vm_has_the_words_of_kubectl(headings: Iterable[str]) -> None:
    assert words(headings) - kubectl(CRD) <= OURS["vms"]


@pytest.mark.parametrize("headings", [hosts.HEADINGS, HOST_HEADINGS], ids=["hosts", "page"])
def test_what_is_shown_of_a_host_has_the_words_of_kubectl(headings: Iterable[str]) -> None:
    assert words(headings) - kubectl(HYPERVISOR_CRD) <= OURS["hosts"]
