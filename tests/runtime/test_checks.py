"""Checks run whatever becomes of the others, each on its own thread and within its time."""

import threading

from controller.runtime.checks import Check, Finding, State, missing, not_visible, ok, run_all
from controller.runtime.errors import Transient

HANG_LIMIT_S = 60.0


def broken() -> Finding:
    raise ZeroDivisionError("1/0")


def refused() -> Finding:
    raise Transient("nobody answers")


def test_findings_are_in_the_order_of_the_checks() -> None:
    checks = [
        Check("third", lambda: ok("c"), "", needs="first"),
        Check("first", lambda: ok("a"), ""),
        Check("second", lambda: missing("b", "fix b"), ""),
    ]
    found = run_all(checks, HANG_LIMIT_S)
    assert list(found.items()) == [("third", ok("c")), ("first", ok("a")), ("second", missing("b", "fix b"))]


def test_a_check_whose_need_is_not_met_does_not_run() -> None:
    for unmet in (missing("no", "fix"), not_visible("no")):
        checks = [
            Check("need", lambda unmet=unmet: unmet, ""),  # type: ignore[misc]
            Check("check", broken, "", needs="need"),
            Check("last", broken, "", needs="check"),
        ]
        found = run_all(checks, HANG_LIMIT_S)
        assert found["check"] == not_visible("this needs: need")
        assert found["last"] == not_visible("this needs: check")


def test_a_check_that_raises_is_missing_and_the_others_run() -> None:
    checks = [
        Check("broken", broken, "report it"),
        Check("refused", refused, "look"),
        Check("well", lambda: ok(""), ""),
    ]
    found = run_all(checks, HANG_LIMIT_S)
    assert found["broken"] == missing("internal error in this check: ZeroDivisionError: 1/0", "report it")
    assert found["refused"] == missing("nobody answers", "look")
    assert found["well"].state is State.OK


def test_a_check_that_does_not_return_is_missing_and_the_others_run() -> None:
    end = threading.Event()

    def hang() -> Finding:
        end.wait()
        return ok("late")

    try:
        found = run_all([Check("hangs", hang, "end it"), Check("well", lambda: ok(""), "")], timeout_s=0.2)
    finally:
        end.set()
    assert found["hangs"] == missing("no answer within 0.2 s", "end it")
    assert found["well"].state is State.OK


def test_text_of_others_cannot_control_the_terminal() -> None:
    found = run_all([Check("check", lambda: missing("held by \x1b[31mred\nok", "kill\x07 7"), "")], HANG_LIMIT_S)
    assert found["check"].detail == "held by red ok"
    assert "\x07" not in found["check"].fix


def test_checks_run_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def meet() -> Finding:
        both.wait(HANG_LIMIT_S)
        return ok("met")

    found = run_all([Check("one", meet, ""), Check("other", meet, "")], HANG_LIMIT_S)
    assert set(found.values()) == {ok("met")}
