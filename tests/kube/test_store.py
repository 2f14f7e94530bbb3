"""What the store believes when answers and events overtake each other; resource versions are no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from controller.api.codec import parse
from controller.api.virtualmachine import DesiredPowerState, Status, VirtualMachine, VmKey
from controller.kube.client import Api
from controller.kube.store import KubeStore, Update
from controller.runtime.errors import Conflicted, Transient
from tests.sim.api import SimulatedApi

KEY = VmKey("default", "web")
HERE = {"nodeName": "a"}

Json = dict[str, Any]


class Place:
    """An API server with one object, an agent's store, and the requests that it made."""

    def __init__(self) -> None:
        self.api = SimulatedApi(lambda: datetime(2026, 1, 1, tzinfo=UTC))
        self.requests: list[str] = []
        self.rewound: list[None] = []
        self.taken: list[Update] = []
        self.meanwhile: list[Callable[[], object]] = []
        """What happens after the API server has answered, before the answer is there; one for each request."""
        self.api.create(KEY, HERE)
        self.absent: list[VmKey] = []
        self.store = KubeStore(
            cast("Api", self),
            "a",
            on_rewound=lambda: self.rewound.append(None),
            on_kept=self.take,
            on_absent=self.absent.append,
        )
        self.store.relist()
        self.requests.clear()

    def request(self, method: str, path: str, body: Json | None = None, **more: str) -> Json:
        answer = self.api.request(method, path, body, **more)
        self.requests.append(method)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return answer

    def request_text(self, method: str, path: str, body: Json | None = None, **more: str) -> bytes:
        return json.dumps(self.request(method, path, body, **more)).encode()

    def take(self, raw: Json) -> None:
        """What the agent does with an event that the store has kept."""
        self.taken.append(self.store.put(raw))

    def now(self) -> Json:
        """The object as the API server has it."""
        return self.api.objects[KEY]

    def vm(self) -> VirtualMachine:
        vm = self.store.read(KEY)
        assert vm
        return vm

    def switch(self, state: str) -> Json:
        """The user changes it; what the watch will tell."""
        self.api.edit(KEY, {"powerState": state})
        return self.now()

    def go_back(self, raw: Json, **spec: str) -> None:
        """The API server is restored from a backup: an old object, and versions that are given out once more."""
        self.api.restore({KEY: raw})
        if spec:
            self.api.edit(KEY, spec)

    def agrees(self) -> bool:
        """Whether the store has what the API server has."""
        return self.vm() == parse(self.now())


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_newer_version_of_the_watch_is_news_without_a_request(place: Place) -> None:
    assert place.store.put(place.switch("Running")) is Update.STORED
    assert place.store.put(place.now()) is Update.UNCHANGED
    place.store.refresh_uncertain(KEY)
    assert place.agrees()
    assert not place.requests


def test_a_late_event_is_asked_about(place: Place) -> None:
    late = place.switch("Running")
    place.switch("Stopped")
    place.store.refresh(KEY)
    place.requests.clear()
    assert place.store.put(late) is Update.UNCERTAIN
    assert place.agrees()
    place.store.refresh_uncertain(KEY)
    place.store.refresh_uncertain(KEY)
    assert place.requests == ["GET"]
    assert place.agrees()


@pytest.mark.parametrize("more", [{}, {"powerState": "Stopped"}], ids=["older", "the same number"])
@pytest.mark.parametrize("how", ["relist", "refresh", "refresh_uncertain"])
def test_after_a_restore_what_is_asked_for_is_believed(place: Place, how: str, more: dict[str, str]) -> None:
    backup = place.now()
    place.store.put(place.switch("Running"))
    place.go_back(backup, **more)
    match how:
        case "relist":
            assert place.store.relist() == ({KEY}, set())
        case "refresh":
            place.store.refresh(KEY)
        case _:
            assert place.store.put(place.now()) is Update.UNCERTAIN
            place.store.refresh_uncertain(KEY)
    assert place.agrees()
    assert bool(place.rewound) is not bool(more), "told that the watch is in the future, where it is"
    place.store.report(place.vm(), Status(node_name="a"))
    assert place.vm().status.node_name == "a"


def test_a_report_decided_on_what_a_restore_has_replaced_is_not_written(place: Place) -> None:
    """Though the new object may have the very number of the old."""
    backup = place.now()
    place.store.put(place.switch("Running"))
    decided_on = place.vm()
    place.go_back(backup, powerState="Stopped")
    place.store.relist()
    assert place.vm().resource_version == decided_on.resource_version
    with pytest.raises(Conflicted):
        place.store.report(decided_on, Status(node_name="a"))


def test_a_conflict_after_a_restore_is_over_with_one_read(place: Place) -> None:
    backup = place.now()
    place.store.put(place.switch("Running"))
    place.go_back(backup)
    with pytest.raises(Conflicted):
        place.store.report(place.vm(), Status(node_name="a"))
    place.store.refresh(KEY)
    place.store.report(place.vm(), Status(node_name="a"))
    assert place.requests == ["GET", "PATCH"]


# --- what comes in while a request is under way


def remade(place: Place) -> None:
    """It is deleted and made anew, and the watch tells both."""
    place.store.gone(place.api.delete(KEY))
    place.api.create(KEY, {**HERE, "powerState": "Stopped"})
    place.store.put(place.now())


def made(place: Place) -> None:
    place.api.create(KEY, HERE)
    place.store.put(place.now())


def changed(place: Place) -> None:
    place.store.put(place.switch("Stopped"))


def deleted(place: Place) -> None:
    place.store.gone(place.api.delete(KEY))
    place.store.refresh_uncertain(KEY)


@pytest.mark.parametrize("happens", [changed, remade])
def test_what_comes_in_during_a_list_is_not_touched_by_it(place: Place, happens: Callable[[Place], None]) -> None:
    place.meanwhile.append(lambda: happens(place))
    changed, gone = place.store.relist()
    assert changed | gone <= {KEY}
    place.store.refresh_uncertain(KEY)
    assert place.agrees()
    assert place.vm().desired is DesiredPowerState.STOPPED


def test_an_object_made_during_a_list_is_not_forgotten(place: Place) -> None:
    """8.5: gone when the list was made, and there again before its answer has come."""
    place.api.delete(KEY)
    place.meanwhile.append(lambda: made(place))
    changed, gone = place.store.relist()
    assert (changed, gone) == ({KEY}, set())
    assert place.store.read(KEY)
    place.store.refresh_uncertain(KEY)
    assert place.agrees()


def test_an_object_deleted_during_a_list_does_not_come_back(place: Place) -> None:
    place.meanwhile.append(lambda: deleted(place))
    changed, _ = place.store.relist()
    assert place.store.read(KEY) is None
    assert changed == {KEY}
    place.store.refresh_uncertain(KEY)
    assert place.store.read(KEY) is None


def test_what_went_is_remembered_only_while_an_answer_may_have_it(place: Place) -> None:
    place.meanwhile.append(lambda: deleted(place))
    place.store.relist()
    assert not place.store._removed
    assert not place.store._in_flight


@pytest.mark.parametrize("happens", [changed, remade])
def test_a_read_that_is_overtaken_is_made_again(place: Place, happens: Callable[[Place], None]) -> None:
    place.meanwhile.append(lambda: happens(place))
    vm = place.store.refresh(KEY)
    assert vm
    assert vm.desired is DesiredPowerState.STOPPED
    assert place.requests == ["GET", "GET"]
    assert place.agrees()


def test_a_read_that_is_overtaken_again_and_again_is_given_up(place: Place) -> None:
    states = iter(["Running", "Stopped"] * 5)
    place.meanwhile.extend([lambda: place.store.put(place.switch(next(states)))] * 10)
    with pytest.raises(Transient, match="changes each time"):
        place.store.refresh(KEY)
    assert place.requests == ["GET"] * 3


def test_a_change_that_overtakes_the_answer_to_a_report_stays(place: Place) -> None:
    place.meanwhile.append(lambda: changed(place))
    reported = place.store.report(place.vm(), Status(node_name="a"))
    assert reported.desired is None
    assert place.vm().desired is DesiredPowerState.STOPPED
    place.store.refresh_uncertain(KEY)
    assert place.agrees()


def test_our_own_write_that_overtakes_its_answer_is_no_doubt(place: Place) -> None:
    place.meanwhile.append(lambda: place.store.put(place.now()))
    reported = place.store.report(place.vm(), Status(node_name="a"))
    assert reported is place.vm()
    place.store.refresh_uncertain(KEY)
    assert place.requests == ["PATCH"]


def test_a_doubt_is_not_ended_by_an_answer_that_was_on_its_way_before(place: Place) -> None:
    place.meanwhile.append(lambda: place.store.gone(place.now()))
    place.store.relist()
    place.store.refresh_uncertain(KEY)
    assert place.requests == ["GET", "GET"]


# --- lists from a watch cache that is behind


def told_by_the_watch(place: Place) -> None:
    place.store.put(place.switch("Stopped"))


def told_by_an_answer(place: Place) -> None:
    place.store.report(place.vm(), Status(node_name="a"))


def gone_for_the_watch(place: Place) -> None:
    place.store.gone(place.api.delete(KEY))
    place.store.refresh_uncertain(KEY)


def listed(place: Place) -> None:
    place.api.delete(KEY)
    place.store.relist()


@pytest.mark.parametrize("learns", [told_by_the_watch, told_by_an_answer, gone_for_the_watch, listed])
def test_a_list_is_never_older_than_what_the_store_has_seen(place: Place, learns: Callable[[Place], None]) -> None:
    """An object that is deleted would come back, and nobody would tell its deletion once more."""
    before = place.api.state()
    learns(place)
    known = place.store.known()
    place.api.cache = before
    place.requests.clear()
    assert place.store.relist() == (set(), set())
    assert place.requests == ["GET"], "the list that the cache could not answer, and then the present state"
    assert place.store.known() == known


def test_the_first_list_may_be_stale(place: Place) -> None:
    """The watch shows what has changed since."""
    place.api.cache = place.api.state()
    place.switch("Stopped")
    store = KubeStore(
        cast("Api", place),
        "a",
        on_rewound=pytest.fail,
        on_kept=lambda _: pytest.fail("kept"),
        on_absent=lambda _: pytest.fail("absent"),
    )
    store.relist()
    vm = store.read(KEY)
    assert vm
    assert vm.desired is None
    assert store.put(place.now()) is Update.STORED


@pytest.mark.parametrize("answer", [{}, {"kind": "Status"}, {"items": []}])
def test_an_answer_that_is_no_list_takes_nothing_away(place: Place, answer: Json) -> None:
    """A proxy may answer anything, with status 200."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place.api, "request", lambda *_, **__: answer)
        with pytest.raises(Transient, match="instead of a list"):
            place.store.relist()
        with pytest.raises(Transient, match="instead of a list"):
            place.store.listed(answer)
    assert place.agrees()
    assert place.store.relist() == (set(), set())


@pytest.mark.parametrize("answer", [{}, {"kind": "Status", "metadata": {}}])
def test_an_answer_that_is_not_the_object_does_not_take_it_away(place: Place, answer: Json) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place.api, "request", lambda *_, **__: answer)
        with pytest.raises(Transient, match="instead of the object"):
            place.store.refresh(KEY)
        with pytest.raises(Transient, match="instead of the object"):
            place.store.report(place.vm(), Status(node_name="a"))
    assert place.agrees()


# --- lists of the watch


def watched(place: Place) -> Json:
    """The answer to the list of a watch that begins now."""
    version, objects = place.api.state()
    found = list(objects.values())
    return {"kind": "VirtualMachineList", "metadata": {"resourceVersion": str(version)}, "items": found}


def test_what_the_list_of_the_watch_lacks_is_asked_about(place: Place) -> None:
    """It was deleted after the store's own list: no event of the watch tells this."""
    place.store.listed(watched(place))
    assert not place.absent
    place.api.delete(KEY)
    place.store.listed(watched(place))
    assert place.absent == [KEY]
    assert place.store.read(KEY), "nothing is concluded from a list that might be old"
    place.store.refresh_uncertain(KEY)
    assert place.store.read(KEY) is None


def test_an_old_list_of_the_watch_takes_nothing_away(place: Place) -> None:
    old = watched(place) | {"items": []}
    place.store.listed(old)
    place.store.refresh_uncertain(KEY)
    assert place.agrees()


def test_a_list_that_the_watch_overtakes_brings_nothing_back(place: Place) -> None:
    place.store.gone(place.api.delete(KEY))
    place.store.refresh_uncertain(KEY)
    place.api.create(KEY, HERE)

    def deleted_before_the_watch() -> None:
        place.api.delete(KEY)
        place.store.listed(watched(place))

    place.meanwhile.append(deleted_before_the_watch)
    assert place.store.relist() == ({KEY}, set())
    assert place.store.read(KEY) is None
    place.store.refresh_uncertain(KEY)
    assert place.store.read(KEY) is None


def test_a_list_after_that_of_the_watch_is_not_older(place: Place) -> None:
    place.api.cache = place.api.state()
    place.api.delete(KEY)
    place.store.listed(watched(place))
    assert place.store.relist() == (set(), {KEY})


# --- whose it is


def test_the_end_of_a_former_object_does_not_take_its_successor_away(place: Place) -> None:
    """The watch may tell of two objects of one name in any order."""
    gone = place.api.delete(KEY)
    place.api.create(KEY, HERE)
    assert place.store.put(place.now()) is Update.UNCERTAIN
    place.store.gone(gone)
    place.store.refresh_uncertain(KEY)
    assert place.agrees()
    assert place.vm().uid == place.now()["metadata"]["uid"]


def test_an_object_of_another_node_is_not_kept(place: Place) -> None:
    place.api.edit(KEY, {"nodeName": "b"})
    assert place.store.put(place.now()) is Update.UNCERTAIN
    assert place.store.refresh(KEY) is None
    assert place.store.known() == []


# --- what cannot be read


def test_one_object_that_is_not_understood_does_not_keep_the_others_away(place: Place) -> None:
    other = VmKey("default", "other")
    place.api.edit(KEY, {"powerState": "Hibernated"})
    place.api.create(other, {**HERE, "powerState": "Running"})
    assert place.store.relist() == ({KEY, other}, set())
    assert place.vm().misunderstood == 'spec.powerState "Hibernated"'
    assert [vm.misunderstood for vm in place.store.vms() if vm.key == other] == [""]
