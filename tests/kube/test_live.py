"""A copy of a collection goes on, or says why not, whatever the API server or a proxy before it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.api.json_mapping import Json
from controller.kube import client, paths
from controller.kube.live import Live
from lab.world import until
from tests.kube.server import Request, kubeconfig_of, serving


def named(name: str) -> Json:
    return {"metadata": {"namespace": "vms", "name": name, "resourceVersion": "6"}}


def name_of(raw: Json) -> str:
    if raw["metadata"]["name"] == "odd":
        raise LookupError("odd")
    return str(raw["metadata"]["name"])


@contextmanager
def copy_of(listed: list[str], watch: Callable[[Request], None], folder: Path) -> Iterator[Live[str]]:
    """A copy of these objects, while `watch` answers each watch."""

    def answer(request: Request) -> None:
        if "watch=true" in request.path:
            watch(request)
        else:
            items = [named(name) for name in listed]
            request.reply({"kind": "VirtualMachineList", "metadata": {"resourceVersion": "5"}, "items": items})

    with serving(answer) as url:
        api = client.load(kubeconfig_of(url, folder))
        with Live(api, paths.VIRTUAL_MACHINES, name_of, lambda: None, page=10) as copy:
            yield copy


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}, "etcdserver: leader changed"),
        (None, "not a change"),
        ({"type": "ADDED", "object": {"metadata": {}}}, "not a change"),
        ({"type": "ADDED", "object": None}, "not a change"),
        ({"type": {}, "object": named("two")}, "not a change"),
        ({"type": "ADDED", "object": named("odd")}, "internal error: LookupError: odd"),
    ],
)
def test_after_a_line_that_is_no_change_it_says_so_and_lists_again(line: object, told: str, tmp_path: Path) -> None:
    listed = ["one"]
    with copy_of(listed, lambda request: request.reply(line), tmp_path) as copy:
        until(lambda: told in copy.trouble, "It does not say why it is out of date.")
        listed.append("two")
        until(lambda: sorted(copy.objects()) == ["one", "two"], "It does not list again.")


def test_a_bookmark_has_no_name(tmp_path: Path) -> None:
    asked: list[str] = []

    def watch(request: Request) -> None:
        asked.append(request.path)
        request.reply({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}})

    with copy_of(["one"], watch, tmp_path) as copy:
        until(lambda: len(asked) > 1, "It does not watch again.")
        assert "resourceVersion=7" in asked[1]
        assert copy.trouble == ""


@pytest.mark.parametrize("chunked", [True, False])
def test_a_change_is_there_when_it_comes(tmp_path: Path, *, chunked: bool) -> None:
    """A proxy that speaks HTTP/1.0 sends no chunks: the body ends with the connection."""
    seen = threading.Event()
    line = json.dumps({"type": "ADDED", "object": named("two")}).encode() + b"\n"

    def watch(request: Request) -> None:
        request.protocol_version = "HTTP/1.1" if chunked else "HTTP/1.0"
        request.send_response(200)
        if chunked:
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) if chunked else line)
        seen.wait()
        request.close_connection = True

    with copy_of(["one"], watch, tmp_path) as copy:
        try:
            until(lambda: sorted(copy.objects()) == ["one", "two"], "The change does not arrive.")
            assert copy.trouble == ""
        finally:
            seen.set()
