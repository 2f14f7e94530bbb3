"""The handles of domains that a connection keeps, with a real libvirtd and its test driver."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import libvirt
import pytest

from controller.hypervisor import handles, remembered
from controller.hypervisor.pool import close
from lab.libvirtd import Libvirtd

DOMAIN = "<domain type='test'><name>{}</name><uuid>{}</uuid><memory>4096</memory><os><type>hvm</type></os></domain>"
RUNNING, PAUSED = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED


class Place:
    """A domain, and an agent's connection that has kept a handle of it."""

    def __init__(self, hand: libvirt.virConnect, connection: libvirt.virConnect) -> None:
        self.connection, self.uuid = connection, uuid4()
        self.domain = hand.defineXML(DOMAIN.format(f"handle-{self.uuid}", self.uuid))
        self.domain.create()
        handles.keep(connection, self.uuid, connection.lookupByUUID(self.uuid.bytes))

    def read(self) -> handles.Read:
        found = handles.read(self.connection, self.uuid)
        assert found
        return found


@pytest.fixture
def place(libvirtd: Libvirtd) -> Iterator[Place]:
    # The test driver loses its domains when its last connection closes, so nothing needs to be removed.
    hand, connection = libvirt.open(libvirtd.test_uri), libvirt.open(libvirtd.test_uri)
    yield Place(hand, connection)
    close(connection)
    hand.close()


def test_an_unknown_domain_has_no_handle(place: Place) -> None:
    assert handles.read(place.connection, UUID(int=0)) is None


def test_a_kept_handle_shows_the_present_state(place: Place) -> None:
    assert place.read()[1][0] == RUNNING
    place.domain.suspend()
    assert place.read()[1][0] == PAUSED


def test_a_kept_handle_shows_the_number_of_the_present_run(place: Place) -> None:
    first = place.read()[0].ID()
    place.domain.destroy()
    assert place.read()[0].ID() == -1
    place.domain.create()
    assert place.read()[0].ID() not in {first, -1}


def test_a_kept_handle_shows_the_present_name(place: Place) -> None:
    place.domain.destroy()
    place.domain.rename(f"renamed-{place.uuid}")
    assert place.read()[0].name() == f"renamed-{place.uuid}"


def test_a_domain_that_is_gone_is_not_found_and_its_successor_is_looked_up(place: Place) -> None:
    place.domain.destroy()
    place.domain.undefine()
    assert handles.read(place.connection, place.uuid) is None
    assert handles.read(place.connection, place.uuid) is None


def test_a_connection_with_handles_is_closed(place: Place) -> None:
    """libvirt counts the references to a connection, and each handle is one."""
    place.read()
    handles.forget(place.connection)
    assert place.connection.close() == 0


def test_handles_of_domains_that_nobody_asks_for_are_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED", 3)
    handle = place.connection.lookupByUUID(place.uuid.bytes)
    for number in range(5):
        handles.keep(place.connection, UUID(int=number), handle)
    assert list(handles._of(place.connection)) == [UUID(int=number) for number in (2, 3, 4)]
