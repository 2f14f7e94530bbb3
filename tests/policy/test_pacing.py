"""The brake and the pace of one node, on clocks that only the tests move."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.api.clock import Now
from controller.api.virtualmachine import LastStop, PowerState, Status, StopCause, VmKey
from controller.policy.brake import Brake
from controller.policy.start_limiter import STARTS_AT_ONCE, StartLimiter
from controller.policy.waits import Waits

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


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_the_wall_clock_is_asked_only_when_a_stop_is_first_seen(step_s: float) -> None:
    brake = Brake(Waits(), BOOT)
    for number in range(3):
        brake.note(key(number), stopped(0), at(1))
    for seconds in (2, 60, 119, 120):
        stepped = Now(at(seconds + step_s).wall, at(seconds).monotonic_s)
        for number in range(3):
            brake.note(key(number), stopped(0, boot="boot-0"), stepped)
            brake.note(key(number), stopped(0), stepped)
        assert brake.until(stepped) == (at(120) if seconds < 120 else None)


@pytest.mark.parametrize("ahead_s", [1, 7200, 20 * 365 * 86400])
def test_stops_that_seem_to_come_yet_hold_starts_no_longer_than_any(ahead_s: float) -> None:
    assert braked(*3 * [stopped(ahead_s)], now_s=0) == at(120)


def test_a_stop_at_the_end_of_the_calendar_is_one_that_was_just_seen() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    told = Status(node_boot_id=BOOT, last_stop=LastStop(StopCause.EXTERNAL, last, ""))
    assert braked(told, told, told, now_s=0) == at(120)


def runs(brake: Brake, number: int, at_s: float, *, after_s: float | None = None) -> None:
    """It is on; its report goes on telling of its last stop, if it had one."""
    status = Status(node_boot_id=BOOT) if after_s is None else stopped(after_s, StopCause.GUEST)
    brake.note(key(number), replace(status, power_state=PowerState.RUNNING), at(at_s))


def finishes(brake: Brake, number: int, at_s: float, cause: StopCause = StopCause.GUEST) -> None:
    brake.note(key(number), replace(stopped(at_s, cause), power_state=PowerState.STOPPED), at(at_s))


def runner(brake: Brake, number: int, at_s: float, times: int = 2) -> None:
    """A VM that powers itself off after a job, and is started again, so many times."""
    for job in range(times):
        finishes(brake, number, at_s + 10 * job)
        brake.answered(key(number), at(at_s + 10 * job + 5))
        runs(brake, number, at_s + 10 * job + 6, after_s=at_s + 10 * job)


def node_of(runners: int, others: int, *, times: int = 2) -> Brake:
    """A brake that has seen so many VMs do their work, one after the other, until second 1000."""
    brake = Brake(Waits(), BOOT)
    for number in range(runners, runners + others):
        runs(brake, number, 0)
    for number in range(runners):
        runner(brake, number, 1000 - 100 * (runners - number), times)
    return brake


def test_runners_that_go_off_together_are_no_host_that_shuts_down() -> None:
    brake = node_of(runners=3, others=4)
    for number in range(3):
        finishes(brake, number, 1000 + number)
    assert brake.until(at(1003)) is None


@pytest.mark.parametrize("others_s", [(1000,), (1000, 1001)])
def test_neither_do_they_count_together_with_one_or_two_others(others_s: tuple[float, ...]) -> None:
    brake = node_of(runners=3, others=10)
    for number in range(3):
        finishes(brake, number, 1000 + number)
    for number, at_s in enumerate(others_s, start=3):
        finishes(brake, number, at_s)
    assert brake.until(at(1003)) is None


def test_once_answered_is_no_runner() -> None:
    brake = node_of(runners=3, others=4, times=1)
    for number in range(3):
        finishes(brake, number, 1000 + number)
    assert brake.until(at(1003)) == at(1122)


def test_a_runner_that_has_not_been_one_for_an_hour_is_none() -> None:
    brake = node_of(runners=3, others=4)
    for number in range(3):
        finishes(brake, number, 5000 + number)
    assert brake.until(at(5003)) == at(5122)


@pytest.mark.parametrize(("now_s", "braked"), [(3600, False), (3601, True)])
def test_a_runner_is_one_for_an_hour_after_the_first_of_its_last_two_jobs(now_s: float, *, braked: bool) -> None:
    brake = Brake(Waits(), BOOT)
    for number in range(7):
        runs(brake, number, 0)
    for number in range(3):
        finishes(brake, number, 0)
        for answered_s in (0, 3000):
            brake.answered(key(number), at(answered_s))
        runs(brake, number, 3001, after_s=0)
        finishes(brake, number, 3590)
    assert (brake.until(at(now_s)) is not None) == braked


def test_an_object_that_is_gone_leaves_no_runner_behind() -> None:
    brake = node_of(runners=3, others=4)
    for number in range(3):
        brake.forget(key(number))
        for seconds in (998, 999):
            brake.answered(key(number), at(seconds))
        finishes(brake, number, 1000 + number)
    assert brake.until(at(1003)) == at(1122)


def test_three_others_brake_whatever_runners_do() -> None:
    brake = node_of(runners=3, others=10)
    for number in (3, 4, 5):
        finishes(brake, number, 1000 + number, StopCause.EXTERNAL)
    assert brake.until(at(1010)) == at(1125)


@pytest.mark.parametrize(("others", "braked"), [(3, True), (4, False)])
def test_half_of_the_running_vms_are_a_host_that_shuts_down_be_they_runners(others: int, *, braked: bool) -> None:
    brake = node_of(runners=3, others=others)
    for number in range(3):
        finishes(brake, number, 1000 + 20 * number)
    assert (brake.until(at(1050)) == at(1160)) is braked


@pytest.mark.parametrize("apart_s", [1, 15, 25])
def test_a_host_that_shuts_down_its_runners_one_after_the_other_is_braked_for_as_long_as_it_does(apart_s: int) -> None:
    brake = node_of(runners=6, others=0)
    for number in range(6):
        finishes(brake, number, 1000 + apart_s * number)
        if number >= 2:
            assert brake.until(at(1000 + apart_s * number)) == at(1120 + apart_s * number)


@pytest.mark.parametrize(("apart_s", "braked"), [(30, True), (31, False)])
def test_half_that_go_off_are_a_host_that_shuts_down_only_within_the_window(apart_s: int, *, braked: bool) -> None:
    brake = node_of(runners=3, others=0)
    for number in range(3):
        finishes(brake, number, 1000 + apart_s * number)
    assert (brake.until(at(1000 + 2 * apart_s)) is not None) == braked


def test_a_runner_that_is_started_again_within_the_window_has_gone_off_all_the_same() -> None:
    brake = node_of(runners=3, others=3)
    for number in range(3):
        finishes(brake, number, 1000 + 20 * number)
        if number < 2:
            runs(brake, number, 1011 + 20 * number, after_s=1000 + 20 * number)
    assert brake.until(at(1041)) == at(1160)


@pytest.mark.parametrize("how", ["gone", "off before"])
def test_half_is_of_those_that_ran(how: str) -> None:
    brake = node_of(runners=3, others=5)
    for number in (3, 4):
        if how == "gone":
            brake.forget(key(number))
        else:
            finishes(brake, number, 500)
    for number in range(3):
        finishes(brake, number, 1000 + number)
    assert brake.until(at(1003)) == at(1122)


def test_a_crash_is_none_of_the_half_and_does_not_prolong_the_brake() -> None:
    brake = node_of(runners=3, others=3)
    finishes(brake, 3, 1000, StopCause.CRASH)
    for number in range(2):
        finishes(brake, number, 1001 + number)
    assert brake.until(at(1003)) is None
    finishes(brake, 2, 1003)
    assert brake.until(at(1003)) == at(1123)
    finishes(brake, 4, 1050, StopCause.CRASH)
    assert brake.until(at(1050)) == at(1123)


def test_what_was_for_nothing_twice_within_an_hour_is_no_sign_any_more() -> None:
    brake = node_of(runners=3, others=0)
    for seconds in (1000, 2000, 3000):
        for number in range(3):
            finishes(brake, number, seconds + number)
        assert brake.until(at(seconds + 3)) == (at(seconds + 122) if seconds < 3000 else None)
        # Two threads look as it is released, and the one that began earlier comes later.
        for released_s in (121, 122, 121, 122):
            brake.until(at(seconds + released_s))
        for number in range(3):
            brake.answered(key(number), at(seconds + 130))
            runs(brake, number, seconds + 131, after_s=seconds + number)


def jobs_done(seed: int, brake_hold_s: float, *, runners: int = 6, seconds: float = 900) -> int:
    """How many jobs so many runners do, each of 8 to 12 s, with a sixth of the default times."""
    chance, pace, done = random.Random(seed), StartLimiter(2, 1 / 6), 0  # noqa: S311 - chance that can be had again
    brake = Brake(Waits(brake_window_s=10, brake_hold_s=brake_hold_s), BOOT)
    went_off_s: dict[int, float] = {}
    due: list[tuple[float, int, str]] = [(chance.uniform(8, 12), number, "finishes") for number in range(runners)]
    for number in range(runners):
        runs(brake, number, 0)
    heapq.heapify(due)
    while due[0][0] < seconds:
        now_s, number, what = heapq.heappop(due)
        wait_s, then = 10 / 6, "is looked at"
        if what == "finishes":
            done += 1
            went_off_s[number] = now_s
            finishes(brake, number, now_s)
        elif what == "has started":
            pace.give_back(key(number))
            brake.answered(key(number), at(now_s))
            runs(brake, number, now_s, after_s=went_off_s[number])
            wait_s, then = chance.uniform(8, 12), "finishes"
        elif released := brake.until(at(now_s)):
            wait_s = at(now_s).until(released)
        elif not (wait_s := pace.take(key(number), now_s, urgent=False)):
            wait_s, then = 0.5, "has started"
        heapq.heappush(due, (now_s + wait_s, number, then))
    return done


@pytest.mark.parametrize("runners", [6, 20])
def test_runners_do_most_of_the_jobs_that_they_do_without_a_brake(runners: int) -> None:
    for seed in range(5):
        assert jobs_done(seed, 20, runners=runners) > 0.9 * jobs_done(seed, 0, runners=runners)


def test_turns_come_one_each_interval_and_so_many_at_a_time() -> None:
    pace = StartLimiter(parallel=2, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0.25, urgent=False) == 0.75
    assert pace.take(key(1), 1, urgent=False) == 0
    assert pace.take(key(2), 2, urgent=False) > 0
    pace.give_back(key(0))
    assert pace.take(key(2), 2, urgent=False) == 0


def test_whoever_a_user_waits_for_goes_first_but_blocks_nobody_by_staying_away() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
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
    pace = StartLimiter(parallel=2, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert [pace.take(key(number), 0, urgent=False) for number in (1, 2, 3)] == [1, 2, 3]
    assert pace.take(key(4), 0, urgent=True) == 1
    assert [pace.take(key(number), 0, urgent=False) for number in (1, 2, 3)] == [2, 3, 4]
    pace.give_back(key(0))
    for second, number in enumerate((4, 1, 2, 3), start=1):
        assert pace.take(key(number), second, urgent=number == 4) == 0
        pace.give_back(key(number))


def test_those_whom_users_wait_for_come_one_after_another_too() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert [pace.take(key(number), 0, urgent=True) for number in (1, 2, 3)] == [1, 2, 3]


def test_who_waits_for_a_long_start_asks_again_soon_and_the_others_after_it() -> None:
    pace = StartLimiter(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 1, urgent=False) == 0.05
    assert pace.take(key(2), 1, urgent=False) == pytest.approx(0.06)
    assert pace.take(key(1), 1.05, urgent=False) == pytest.approx(0.05, rel=0.1)
    pace.give_back(key(0))
    assert pace.take(key(1), 1.1, urgent=False) == 0


@pytest.mark.parametrize(("since_s", "asks_again_s"), [(0.5, 0.05), (10, 0.5), (40, 2), (86_400, 2)])
def test_the_longer_a_start_takes_the_less_often_it_is_asked_about(since_s: float, asks_again_s: float) -> None:
    pace = StartLimiter(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), since_s, urgent=False) == asks_again_s


def test_for_each_start_that_hangs_one_more_may_begin_and_at_most_as_many_again() -> None:
    pace = StartLimiter(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 31, urgent=False, hanging=1) == 0
    assert pace.take(key(2), 62, urgent=False, hanging=2) > 0
    pace.give_back(key(0))
    assert pace.take(key(2), 63, urgent=False, hanging=1) == 0


def test_no_more_than_half_of_the_calls_are_for_starts() -> None:
    pace = StartLimiter(parallel=3, interval_s=0)
    for number in range(STARTS_AT_ONCE):
        assert pace.take(key(number), number, urgent=False, hanging=number) == 0
    assert pace.take(key(STARTS_AT_ONCE), 60, urgent=True, hanging=STARTS_AT_ONCE) > 0


def test_beside_starts_that_hang_too_those_come_first_that_a_user_waits_for() -> None:
    pace = StartLimiter(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 30, urgent=True) > 0
    assert pace.take(key(2), 31, urgent=False, hanging=1) > 0
    assert pace.take(key(1), 31, urgent=True, hanging=1) == 0


def test_who_becomes_urgent_goes_ahead_and_back_again() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert [pace.take(key(number), 0, urgent=False) for number in (1, 2)] == [1, 2]
    assert pace.take(key(2), 0, urgent=True) == 1
    assert pace.take(key(1), 0, urgent=False) == 2
    assert pace.take(key(2), 0, urgent=False) == 2
    assert pace.take(key(1), 0, urgent=False) == 1


def test_a_start_that_is_no_longer_urgent_does_not_wait_for_its_own_urgent_place() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0, urgent=True) == 1
    pace.give_back(key(0))
    assert pace.take(key(1), 1, urgent=False) == 0


def test_who_has_had_its_turn_is_in_nobodys_way() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0, urgent=False) == 1
    pace.give_back(key(0))
    assert pace.take(key(1), 1, urgent=False) == 0
    assert pace.take(key(2), 1, urgent=False) == 1


def test_who_does_not_come_back_loses_its_place_after_three_turns() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
    assert pace.take(key(0), 0, urgent=False) == 0
    pace.give_back(key(0))
    assert pace.take(key(1), 0.5, urgent=True) == 0.5
    assert pace.take(key(2), 4, urgent=False) > 0
    assert pace.take(key(2), 4.1, urgent=False) == 0


def test_who_is_as_late_as_may_be_keeps_its_place() -> None:
    pace = StartLimiter(parallel=1, interval_s=0)
    assert pace.take(key(0), 0, urgent=False) == 0
    assert pace.take(key(1), 0, urgent=True) == 0.05
    pace.give_back(key(0))
    assert pace.take(key(2), 0.1, urgent=False) > 0


def test_giving_back_what_was_never_had_does_no_harm() -> None:
    pace = StartLimiter(parallel=1, interval_s=1)
    pace.give_back(key(0))
    assert pace.take(key(0), 0, urgent=False) == 0
