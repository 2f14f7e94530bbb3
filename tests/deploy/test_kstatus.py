"""What kstatus makes of each reason of Ready: the library that Flux uses, against the table in docs/api.md."""

import json
import re
from typing import Any

from controller.api.virtualmachine import Reason
from gitops import kstatus
from lab.controlplane import ControlPlane
from manifests import reasons as pages
from tests.deploy import reasons
from tests.deploy.callers import REPOSITORY

Json = dict[str, Any]


def table() -> dict[str, str]:
    """The reasons of the table about kstatus in docs/api.md, each with its kstatus."""
    section = (REPOSITORY / "docs/api.md").read_text().partition("## What kstatus makes of it")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(Current|InProgress|Failed)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == 3
    found = [(reason, status) for status, words in rows for reason in re.findall(r"`(\w+)`", words)]
    assert len(found) == len(dict(found)), "A reason has two kinds of kstatus."
    return dict(found)


def named(reason: str, vm: Json) -> Json:
    whole = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine"} | vm
    return whole | {"metadata": vm["metadata"] | {"name": reason}}


def test_the_kstatus_of_each_reason_is_as_documented() -> None:
    computed = kstatus.compute(named(reason, reasons.vm(reason)) for reason in Reason)
    assert computed == table()
    assert computed.keys() == set(Reason)


def test_the_kstatus_of_a_host_is_as_on_the_page_of_its_reason() -> None:
    rows = pages.of_hosts("Ready")
    hosts = {reason: reasons.host(("Ready", row.status, reason)) for reason, row in rows.items()}
    computed = kstatus.compute(named(reason, host) | {"kind": "Hypervisor"} for reason, host in hosts.items())
    assert {reason: pages.KSTATUS[status] for reason, status in computed.items()} == {
        reason: pages.without_expressions(row) for reason, row in rows.items()
    }


def test_a_spec_that_no_agent_has_observed_is_in_progress_whatever_the_reason() -> None:
    computed = kstatus.compute(named(reason, reasons.vm(reason, generation=2)) for reason in Reason)
    assert computed == dict.fromkeys(Reason, "InProgress")


def test_a_new_object_is_in_progress(crd: ControlPlane) -> None:
    body = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "new"}}
    words = ("create", "-f", "-", "-o", "json", "--dry-run=server")
    created = json.loads(crd.kubectl(*words, input=json.dumps(body)).stdout)
    assert kstatus.compute([created]) == {"new": "InProgress"}
