"""One log for everything: sentences for people, fields for machines."""

import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from controller.runtime import logs

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def only_for_this_test() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)
    for name in logs.LIBRARIES:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_people_get_sentences_without_colour() -> None:
    stream = io.StringIO()
    logs.configure("text", "info", stream)
    structlog.get_logger().info("status reported", vm="default/web", reason="Starting", message="It was Stopped.")
    logging.getLogger("kubernetes.client").warning("token of %s has expired", "node-a")
    ours, theirs = stream.getvalue().splitlines()
    assert re.fullmatch(STAMP + r" \[info +\] default/web: status reported: It was Stopped. \(reason=Starting\)", ours)
    assert re.fullmatch(STAMP + r" \[warning +\] token of node-a has expired", theirs)


def test_machines_get_each_line_as_one_object() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    structlog.get_logger("controller.agent.app").info("status reported", vm="default/web")
    logging.getLogger("kopf.objects").error("broken\nin two lines")
    try:
        int("a bug")
    except ValueError:
        structlog.get_logger().exception("default/web: the pass failed")
    ours, theirs, bug = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(STAMP, ours.pop("timestamp"))
    assert ours == {
        "event": "status reported",
        "vm": "default/web",
        "level": "info",
        "logger": "controller.agent.app",
    }
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("broken\nin two lines", "error", "kopf.objects")
    assert bug["exception"].endswith("invalid literal for int() with base 10: 'a bug'")


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_holds_for_ours_and_libraries_speak_up_for_debug_only(level: str, lines: int) -> None:
    stream = io.StringIO()
    logs.configure("json", level, stream)
    log = structlog.get_logger()
    log.debug("looked")
    log.info("started")
    log.warning("libvirt does not answer")
    logging.getLogger("kopf.activities").info("logged in")
    assert len(stream.getvalue().splitlines()) == lines


def test_a_warning_of_python_is_a_line_like_any() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("this will go", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "this will go" in json.loads(stream.getvalue())["event"]


def test_an_outage_is_one_line_in_a_while() -> None:
    stream, now_s = io.StringIO(), [1000.0]
    logs.configure("json", "info", stream)
    (handler,) = logging.getLogger().handlers
    handler.filters = [logs.RepeatFilter(lambda: now_s[0])]
    log, library = structlog.get_logger(), logging.getLogger("kopf.clients")

    def an_outage() -> list[str]:
        stream.truncate(stream.seek(0))
        for attempt in range(3):
            log.info("another look")
            log.warning("the API server does not answer")
            library.error(f"attempt {attempt} failed")
        log.warning("libvirt does not answer")
        return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]

    told = ["another look", "the API server does not answer", "attempt 0 failed", *["another look"] * 2]
    assert an_outage() == [*told, "libvirt does not answer"]
    now_s[0] += logs.REPEAT_EVERY_S - 1
    assert an_outage() == ["another look"] * 3
    now_s[0] += 1
    assert an_outage() == [*told, "libvirt does not answer"]


# A rack loses power, and the manager finds each of its nodes silent.
@pytest.mark.parametrize("field", ["vm", "node"])
def test_the_same_warning_about_another_one_is_another_line(field: str) -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    for one in ("first", "second", "first"):
        structlog.get_logger().warning("reconcile pass failed, will retry", error="timed out", **{field: one})
    assert [json.loads(line)[field] for line in stream.getvalue().splitlines()] == ["first", "second"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"event": "agent stopped"}, "agent stopped"),
        ({"event": "failed", "error": "no answer", "vm": "default/web"}, "default/web: failed: no answer"),
        ({"event": "agent is starting", "node": "a", "http_port": 80}, "agent is starting (node=a, http_port=80)"),
        ({"event": "action finished", "message": "It was started.", "error": None}, "action finished: It was started."),
    ],
)
def test_a_line_is_a_sentence(line: dict[str, object], text: str) -> None:
    assert logs.sentence({"timestamp": "now", "level": "info", "logger": "x"} | line) == text


def test_a_fault_of_ours_is_told_each_time() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    for _ in range(2):
        try:
            int("a bug")
        except ValueError:
            structlog.get_logger().exception("default/web: the pass failed")
    assert len(stream.getvalue().splitlines()) == 2


class Interrupted(str):
    """The name of a logger; when it is looked up, another thread comes in between."""

    __slots__ = ("come_in",)
    come_in: Callable[[], None]

    def __hash__(self) -> int:
        self.come_in()
        return str.__hash__(self)

    __eq__ = str.__eq__


@pytest.mark.parametrize("look_up", [1, 2])
def test_the_same_complaint_of_two_threads_is_one_line_whenever_they_meet(look_up: int) -> None:
    complaints, told, name = logs.RepeatFilter(), list[bool](), Interrupted("kopf")
    look_ups = 0

    def complain(name: str) -> None:
        told.append(complaints.filter(logging.LogRecord(name, logging.WARNING, "", 0, "away", None, None)))

    other = threading.Thread(target=complain, args=("kopf",))

    def come_in() -> None:
        nonlocal look_ups
        look_ups += 1
        if look_ups == look_up:
            other.start()
            other.join(0.2)  # it ends by then, unless it has to wait

    name.come_in = come_in
    complain(name)
    if not other.ident:  # since Python 3.14 a tuple keeps its hash, so there is one look-up
        other.start()
    other.join()
    assert sorted(told) == [False, True]
