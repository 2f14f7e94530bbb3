"""What kopf still reads of a list and of a watch."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from controller.api.virtualmachine import VmKey
from controller.kube.skipping import SkippingReader
from controller.runtime.errors import Transient

Json = dict[str, Any]


def vm(name: str, version: str, **annotations: str) -> Json:
    """An object as the API server writes it."""
    meta = {"annotations": annotations, "name": name, "namespace": "default", "resourceVersion": version, "uid": "u"}
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": meta, "spec": {}}


def compact(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def event(kind: str, raw: Json) -> bytes:
    """A line of a watch; its keys are sorted, except those of the line itself."""
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), compact(raw))


class Store:
    """Knows some objects."""

    def __init__(self, *known: Json) -> None:
        self.known = list(known)
        self.lists: list[Json] = []

    def take(self, key: VmKey, text: bytes) -> bool:
        raw = json.loads(text)
        assert key == VmKey(raw["metadata"]["namespace"], raw["metadata"]["name"])
        return raw in self.known

    def is_known(self, raw: Json) -> bool:
        return raw in self.known

    def listed(self, answer: Json) -> None:
        self.lists.append(copy.deepcopy(answer))


def read(store: Store, *chunks: bytes, whole: bool = False) -> bytes:
    """What is read of these chunks."""

    async def reading() -> bytes:
        loop = asyncio.get_running_loop()
        protocol = BaseProtocol(loop)
        protocol.connection_made(asyncio.Transport())
        content = aiohttp.StreamReader(protocol, 2**16, loop=loop)
        reader = SkippingReader(content, store)

        async def feed() -> None:
            for chunk in chunks:
                content.feed_data(chunk)
                await asyncio.sleep(0)
            content.feed_eof()

        feeding = asyncio.create_task(feed())
        body = await reader.read() if whole else b"".join([part async for part in reader.iter_chunked(2**20)])
        await feeding
        return body

    return asyncio.run(reading())


def lines(body: bytes) -> list[Json]:
    return [json.loads(line) for line in body.splitlines()]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_known_change_becomes_a_bookmark_however_it_is_cut(size: int) -> None:
    ours, theirs = vm("web", "7"), vm("db", "8")
    sent = event("MODIFIED", ours) + event("MODIFIED", theirs) + event("MODIFIED", ours)
    read_lines = lines(read(Store(ours), *(sent[at : at + size] for at in range(0, len(sent), size))))
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}
    assert read_lines == [bookmark, {"type": "MODIFIED", "object": theirs}, bookmark]


@pytest.mark.parametrize("kind", ["ADDED", "DELETED", "BOOKMARK"])
def test_only_changes_are_skipped(kind: str) -> None:
    ours = vm("web", "7")
    assert read(Store(ours), event(kind, ours)) == event(kind, ours)


def test_a_text_of_a_user_is_not_taken_for_the_identity() -> None:
    ours = vm("web", "7", note='"name":"db","namespace":"other","resourceVersion":"9","uid":"x"')
    assert lines(read(Store(ours), event("MODIFIED", ours)))[0]["object"]["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("field", ["annotations", "labels"])
def test_a_key_of_a_user_is_not_taken_for_the_identity(field: str, *, owned: bool) -> None:
    """ownerReferences are between the namespace and the version, so only the keys of the user look like an identity."""
    ours = vm("web", "7")
    ours["metadata"][field] = {"name": "web", "namespace": "default", "resourceVersion": "9", "uid": "x"}
    if owned:
        ours["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"}]
    assert lines(read(Store(ours), event("MODIFIED", ours)))[0]["object"]["metadata"]["resourceVersion"] == "7"


def test_what_is_cut_off_at_the_end_is_left_to_kopf() -> None:
    sent = event("MODIFIED", vm("web", "7"))[:-5]
    assert read(Store(), sent) == sent


def test_a_list_has_only_the_items_that_are_not_known() -> None:
    ours, theirs = vm("web", "7"), vm("db", "8")
    answer = {"kind": "VirtualMachineList", "metadata": {"resourceVersion": "9"}, "items": [ours, theirs]}
    store = Store(ours)
    assert json.loads(read(store, compact(answer), whole=True)) == answer | {"items": [theirs]}
    assert store.lists == [answer]


@pytest.mark.parametrize("answer", [{}, {"kind": "Status"}, {"items": []}])
def test_an_answer_that_is_no_list_is_an_error(answer: Json) -> None:
    with pytest.raises(Transient, match="instead of a list"):
        read(Store(), compact(answer), whole=True)
