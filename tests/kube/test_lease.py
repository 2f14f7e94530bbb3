"""A Lease is held only if the API server says so, whatever a proxy before it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api.json_mapping import Json
from controller.kube import client
from controller.kube.lease import KeptLease
from tests.kube.server import Request, kubeconfig_of, serving

FREE: Json = {"kind": "Lease", "metadata": {"name": "node-a", "resourceVersion": "5"}, "spec": {"holderIdentity": ""}}
OURS = FREE | {"spec": {"holderIdentity": "us"}}


def lease_of(url: str, folder: Path) -> KeptLease:
    return KeptLease(
        client.load(kubeconfig_of(url, folder)),
        namespace="virtsync-system",
        name="node-a",
        component="agent",
        identity="us",
        duration_s=40,
        must_not_claim=lambda: "",
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "Status", "metadata": {}, "code": 503, "message": "upstream"},
        {},
        [],
        "ok",
        FREE,
        FREE | {"spec": {"holderIdentity": "another"}},
        OURS | {"metadata": {"name": "node-b"}},
    ],
)
def test_an_answer_to_a_write_that_is_not_our_lease_grants_nothing(answer: object, tmp_path: Path) -> None:
    with serving(lambda request: request.reply(FREE if request.command == "GET" else answer)) as url:
        lease = lease_of(url, tmp_path)
        lease.keep()
    assert not lease.held
    assert "did not return the Lease that was written" in lease.blocked


def test_a_lease_that_is_written_is_held_until_it_is_released(tmp_path: Path) -> None:
    written: list[str] = []
    answers = [OURS, FREE | {"spec": {}}]

    def answer(request: Request) -> None:
        if request.command == "GET":
            request.reply(FREE)
        else:
            written.append(request.command)
            request.reply(answers[len(written) - 1])

    with serving(answer) as url:
        lease = lease_of(url, tmp_path)
        lease.keep()
        assert lease.held
        lease.release()
    assert written == ["PUT", "PUT"]
