"""Which events of the watch are the agent's own writes."""

from __future__ import annotations

import pytest

from controller.api.virtualmachine import VmKey
from controller.kube.echoes import Echoes

KEY, OTHER = VmKey("default", "web"), VmKey("default", "db")


class Place:
    """The echoes of an agent, and what must be processed after a write."""

    def __init__(self) -> None:
        self.processed: list[bytes] = []
        self.echoes = Echoes(self.processed.append)

    def write(self, answer: bytes, *before: bytes) -> None:
        """A write, whose answer comes after these events."""
        with self.echoes.writing(KEY):
            assert all(self.echoes.take(KEY, text) for text in before)
            self.echoes.answered(KEY, answer)


@pytest.fixture
def place() -> Place:
    return Place()


def test_an_echo_after_the_answer_is_taken_once(place: Place) -> None:
    place.write(b"1")
    assert not place.echoes.take(OTHER, b"1")
    assert place.echoes.take(KEY, b"1")
    assert not place.echoes.take(KEY, b"1"), "a repeated event is nothing that a write explains"
    assert not place.processed


def test_an_echo_before_the_answer_is_no_news(place: Place) -> None:
    place.write(b"1", b"1")
    assert not place.processed
    assert not place.echoes.take(KEY, b"1"), "the echo of this write has come"


def test_a_change_that_comes_before_the_answer_is_processed_after_the_write(place: Place) -> None:
    place.write(b"1", b"1", b"2")
    assert place.processed == [b"2"]


def test_a_change_with_the_same_version_number_is_no_echo(place: Place) -> None:
    """After a restore of etcd, the API server assigns the same numbers again."""
    place.write(b'{"resourceVersion":"7","spec":{}}')
    assert not place.echoes.take(KEY, b'{"resourceVersion":"7","spec":{"powerState":"Running"}}')


def test_a_change_is_processed_after_a_write_that_fails(place: Place) -> None:
    def fail() -> None:
        with place.echoes.writing(KEY):
            assert place.echoes.take(KEY, b"2")
            raise TimeoutError

    with pytest.raises(TimeoutError):
        fail()
    assert place.processed == [b"2"]


def test_a_change_waits_for_the_last_of_several_writes(place: Place) -> None:
    with place.echoes.writing(KEY):
        with place.echoes.writing(KEY):
            assert place.echoes.take(KEY, b"2")
        assert not place.processed
    assert place.processed == [b"2"]


def test_a_version_that_was_replaced_is_not_expected_any_more(place: Place) -> None:
    place.write(b"1")
    place.echoes.replaced(KEY)
    assert not place.echoes.take(KEY, b"1")


def test_what_was_kept_of_an_object_that_is_read_again_is_dropped(place: Place) -> None:
    with place.echoes.writing(KEY):
        assert place.echoes.take(KEY, b"2")
        place.echoes.forget_kept(KEY)
    assert not place.processed
