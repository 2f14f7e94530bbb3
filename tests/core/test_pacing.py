"""The brake and the pace of one node, on clocks that only the tests move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.model import LastStop, Now, Status, StopCause, VmKey
from controller.pacing import STARTS_AT_ONCE, Brake, Pace
from controller.settings import Waits

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BOOT = "boot-1"


def at(seconds: float) -> Now:
    return Now(T0 + timedelta(seconds=seconds), 1000 + seconds)


def key(number: int) -> VmKey:
    return VmKey("default", f"vm-{number}")


def stopped(at_s: float, cause: StopCause = StopCause.EXTERNAL, boot: str = BOOT) -> Status:
    return Status(node_boot_id=boot, last_stop=LastStop(cause, at(at_s).wall, ""))


def braked(*stops: Status, now_s: float) -> Now | None:
    brake = Brake(Waits(), BOOT)
    for number, status in enumerate(stops):
        brake.note(key(number), status, at(now_s))
    return brake.until(at(now_s))


@pytest.mark.parametrize("cause", [StopCause.GUEST, StopCause.EXTERNAL, StopCause.SAVED])
def test_three_stops_by_others_within_a_minute_brake_until_two_minutes_after_the_last(cause: StopCause) -> None:
    stops = [stopped(0, cause), stopped(30, cause), stopped(60, cause)]
    assert braked(*stops, now_s=60) == at(180)
    assert braked(*stops, now_s=179) == at(180)
    assert braked(*stops, now_s=180) is None


def test_two_are_not_enough_and_neither_are_three_over_more_than_a_minute() -> None:
    assert braked(stopped(0), stopped(1), now_s=2) is None
    assert braked(stopped(0), stopped(30), stopped(61), now_s=61) is None


@pytest.mark.parametrize("cause", [StopCause.AGENT, StopCause.CRASH, StopCause.NODE_REBOOT, StopCause.UNKNOWN])
def test_stops_that_no_host_shutdown_makes_do_not_count(cause: StopCause) -> None:
    assert braked(stopped(0), stopped(1), stopped(2, cause), now_s=3) is None


def test_a_stop_of_another_boot_does_not_count() -> None:
    assert braked(stopped(0), stopped(1), stopped(2, boot="boot-0"), now_s=3) is None


def test_a_stop_counts_once_however_often_it_is_told() -> None:
    brake = Brake(Waits(), BOOT)
    for seconds in (0, 1, 2):
        brake.note(key(0), stopped(0), at(seconds))
    assert brake.until(at(3)) is None


def test_a_new_stop_of_a_vm_replaces_its_old_one_and_a_further_one_prolongs_the_brake() -> None:
    brake = Brake(Waits(), BOOT)
    for number in range(3):
        brake.note(key(number), stopped(number), at(2))
    assert brake.until(at(2)) == at(122)
    brake.note(key(3), stopped(40), at(40))
    assert brake.until(at(40)) == at(160)


def test_the_last_stop_of_a_vm_counts_not_its_first() -> None:
    brake = Brake(Waits(), BOOT)
    brake.note(key(0), stopped(0), at(0))
    for number in range(3):
        brake.note(key(number), stopped(90 + number), at(95))
    assert brake.until(at(95)) == at(212)


def test_a_vm_of_which_no_stop_was_told_can_be_forgotten() -> None:
    brake = Brake(Waits(), BOOT)
    brake.forget(key(0))
    assert brake.until(at(0)) is None


@pytest.mark.parametrize("how", ["forgotten", "run again", "judged anew"])
def test_a_stop_that_no_longer_holds_is_not_counted(how: str) -> None:
    brake = Brake(Waits(), BOOT)
    for number in range(3):
        brake.note(key(number), stopped(number), at(2))
    if how == "forgotten":
        brake.forget(key(1))
    else:
        brake.note(key(1), Status(node_boot_id=BOOT) if how == "run again" else stopped(1, StopCause.CRASH), at(3))
    assert brake.until(at(3)) is None


def test_turns_come_one_each_interval_and_so_many_at_a_time() -> None:
    pace = Pace(parallel=2, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0.25, urgent=False) == 0.75
    assert pace.take(key(1), 1, urgent=False) == 0
    assert pace.take(key(2), 2, urgent=False) > 0
    pace.give_back(key(0))
    assert pace.take(key(2), 2, urgent=False) == 0


def test_whoever_a_user_waits_for_goes_first_but_blocks_nobody_by_staying_away() -> None:
    pace = Pace(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0.5, urgent=True) > 0
    pace.give_back(key(0))
    assert pace.take(key(2), 1.5, urgent=False) > 0
    assert pace.take(key(1), 1.5, urgent=True) == 0
    pace.give_back(key(1))
    assert pace.take(key(2), 2.5, urgent=False) == 0
    pace.give_back(key(2))
    assert pace.take(key(3), 2.75, urgent=True) > 0
    assert pace.take(key(4), 6.75, urgent=False) == 0


def test_of_many_that_wait_each_comes_back_at_its_own_turn() -> None:
    pace = Pace(parallel=2, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert [pace.take(key(number), 0, urgent=False) for number in (1, 2, 3)] == [1, 2, 3]
    assert pace.take(key(4), 0, urgent=True) == 1
    assert [pace.take(key(number), 0, urgent=False) for number in (1, 2, 3)] == [2, 3, 4]
    pace.give_back(key(0))
    for second, number in enumerate((4, 1, 2, 3), start=1):
        assert pace.take(key(number), second, urgent=number == 4) == 0
        pace.give_back(key(number))


def test_those_whom_users_wait_for_come_one_after_another_too() -> None:
    pace = Pace(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert [pace.take(key(number), 0, urgent=True) for number in (1, 2, 3)] == [1, 2, 3]


def test_who_waits_for_a_long_start_asks_again_soon_and_the_others_after_it() -> None:
    pace = Pace(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 1, urgent=False) == 0.05
    assert pace.take(key(2), 1, urgent=False) == pytest.approx(0.06)
    assert pace.take(key(1), 1.05, urgent=False) == pytest.approx(0.05, rel=0.1)
    pace.give_back(key(0))
    assert pace.take(key(1), 1.1, urgent=False) == 0


@pytest.mark.parametrize(("since_s", "asks_again_s"), [(0.5, 0.05), (10, 0.5), (40, 2), (86_400, 2)])
def test_the_longer_a_start_takes_the_less_often_it_is_asked_about(since_s: float, asks_again_s: float) -> None:
    pace = Pace(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), since_s, urgent=False) == asks_again_s


def test_for_each_start_that_hangs_one_more_may_begin_and_at_most_as_many_again() -> None:
    pace = Pace(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 31, urgent=False, hanging=1) == 0
    assert pace.take(key(2), 62, urgent=False, hanging=2) > 0
    pace.give_back(key(0))
    assert pace.take(key(2), 63, urgent=False, hanging=1) == 0


def test_no_more_than_half_of_the_calls_are_for_starts() -> None:
    pace = Pace(parallel=3, interval_s=0)
    for number in range(STARTS_AT_ONCE):
        assert pace.take(key(number), number, urgent=False, hanging=number) == 0
    assert pace.take(key(STARTS_AT_ONCE), 60, urgent=True, hanging=STARTS_AT_ONCE) > 0


def test_beside_starts_that_hang_too_those_come_first_that_a_user_waits_for() -> None:
    pace = Pace(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 30, urgent=True) > 0
    assert pace.take(key(2), 31, urgent=False, hanging=1) > 0
    assert pace.take(key(1), 31, urgent=True, hanging=1) == 0


def test_who_becomes_urgent_goes_ahead_and_back_again() -> None:
    pace = Pace(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert [pace.take(key(number), 0, urgent=False) for number in (1, 2)] == [1, 2]
    assert pace.take(key(2), 0, urgent=True) == 1
    assert pace.take(key(1), 0, urgent=False) == 2
    assert pace.take(key(2), 0, urgent=False) == 2
    assert pace.take(key(1), 0, urgent=False) == 1


def test_who_has_had_its_turn_is_in_nobodys_way() -> None:
    pace = Pace(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0, urgent=False) == 1
    pace.give_back(key(0))
    assert pace.take(key(1), 1, urgent=False) == 0
    assert pace.take(key(2), 1, urgent=False) == 1


def test_who_does_not_come_back_loses_its_place_after_three_turns() -> None:
    pace = Pace(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    pace.give_back(key(0))
    assert pace.take(key(1), 0.5, urgent=True) == 0.5
    assert pace.take(key(2), 4, urgent=False) > 0
    assert pace.take(key(2), 4.1, urgent=False) == 0


def test_who_is_as_late_as_may_be_keeps_its_place() -> None:
    pace = Pace(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0, urgent=True) == 0.05
    pace.give_back(key(0))
    assert pace.take(key(2), 0.1, urgent=False) > 0


def test_giving_back_what_was_never_had_does_no_harm() -> None:
    pace = Pace(parallel=1, interval_s=1)
    pace.give_back(key(0))
    assert pace.take(key(0), 0, urgent=False) == 0
