"""Each action has a libvirt call, a phase in which there is nothing left to do, and a result that is true."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import libvirt
import pytest

from controller.hypervisor import host
from controller.hypervisor.events import Evidences
from controller.hypervisor.host import CALLS, LibvirtHost
from controller.policy.view import Action, Domain, Phase, PowerAction, Result
from controller.runtime.errors import Transient, Unsent

UUID_ = UUID(int=7)
RUNNING = Domain(UUID_, "web", Phase.RUNNING, 1, "RUNNING", "BOOTED")


class Unanswered(libvirt.libvirtError):  # type: ignore[misc]
    """What libvirt raises when its connection has gone."""

    def get_error_code(self) -> int:
        return int(libvirt.VIR_ERR_NO_CONNECT)


class Connection:
    """A connection and its one domain, which runs. The calls in `fails` get no answer."""

    uri = "test:///default"

    def __init__(self, *fails: str) -> None:
        self.fails, self.calls = fails, list[str]()
        self.evidences = Evidences()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise Unanswered("client socket is closed")

    @contextmanager
    def action(self) -> Iterator[Any]:
        if "connect" in self.fails:
            raise Transient("not connected")
        yield self

    def when_redefined(self, _: object) -> None: ...
    def isAlive(self) -> bool:  # noqa: N802 - as libvirt names it
        return False

    def lookupByUUID(self, _: bytes) -> Any:  # noqa: N802 - as libvirt names it
        self._call("look up")
        return self

    def state(self, _: int) -> tuple[int, int]:
        self._call("state")
        return libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED

    def domainListGetStats(self, handles: list[Any], *_: int) -> Any:  # noqa: N802 - as libvirt names it
        state, reason = self.state(0)
        return [(handles[0], {"state.state": state, "state.reason": reason})]

    def isPersistent(self) -> bool:  # noqa: N802 - as libvirt names it
        return True

    def autostart(self) -> bool:
        return False

    def ID(self) -> int:  # noqa: N802 - as libvirt names it
        return 1

    def name(self) -> str:
        return "web"

    def press(self) -> None:
        self._call("press")


def pressed(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setitem(host.CALLS, Action.SHUTDOWN, lambda handle: handle.press())
    eyes_and_hands = LibvirtHost(connection, blocked=str)  # type: ignore[arg-type]
    return eyes_and_hands.act(PowerAction(Action.SHUTDOWN, RUNNING))


def test_each_action_can_be_executed() -> None:
    assert set(CALLS) == set(Action)


def test_a_request_that_libvirt_answers_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection()
    assert pressed(connection, monkeypatch) is Result.DONE
    assert connection.calls[-1] == "press"


@pytest.mark.parametrize("fails", ["connect", "look up", "state"])
def test_a_request_for_which_libvirt_did_not_answer_before_was_not_sent(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a guest that was never asked is forced off when its grace period is over."""
    connection = Connection(fails)
    with pytest.raises(Unsent, match=r"not connected|closed"):
        pressed(connection, monkeypatch)
    assert "press" not in connection.calls


def test_a_request_that_libvirt_does_not_answer_may_have_been_received(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Transient) as raised:
        pressed(Connection("press"), monkeypatch)
    assert not isinstance(raised.value, Unsent)
