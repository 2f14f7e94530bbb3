"""One log on stderr: structlog's lines and the libraries', as sentences for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LIBRARIES = {
    "kopf": logging.WARNING,
    "kubernetes": logging.WARNING,
    "urllib3": logging.ERROR,
    "asyncio": logging.WARNING,
}
"""The least that the libraries may say: each has its own idea of what is worth a line."""
SENTENCE = {"timestamp", "level", "event", "exc_info", "stack", "stack_info", "exception"}
"""What people read of a line; the rest says the same to machines."""

COMPLAIN_EVERY_S = 30.0
"""An outage is one line in so long, not one for each try."""


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send every line to the stream (stderr). `log_format` is text or json; for `level` debug libraries talk too."""
    stream = stream or sys.stderr
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _stamp]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(log_format, stream)],
        )
    )
    if level != "debug":
        handler.addFilter(Complaints())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, least in LIBRARIES.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else least)
    logging.captureWarnings(capture=True)


class Complaints(logging.Filter):
    """Lets the same complaint through once in a while; what tells of a fault of ours, and what is no complaint, always.

    A library's complaints are all the same one: it words each try another way.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is to be seen."""
        ours: EventDict | None = record.msg if isinstance(record.msg, dict) else None
        if record.levelno < logging.WARNING or (ours and ours.get("exc_info")):
            return True
        now_s, complaint = self._clock(), (record.name, ours["event"] if ours else record.levelname)
        with self._lock:  # a handler filters before it takes its own
            if self._until_s.get(complaint, now_s) > now_s:
                return False
            self._until_s = {one: until_s for one, until_s in self._until_s.items() if until_s > now_s}
            self._until_s[complaint] = now_s + COMPLAIN_EVERY_S
            return True


def _rendering(log_format: str, stream: TextIO) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    console = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return [_keep_the_sentence, console]


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, **event}


def _keep_the_sentence(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if name in SENTENCE}
