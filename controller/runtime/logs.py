"""Configures the log on stderr: the lines of virtsync (structlog) and of its libraries, in a text or JSON format.

The event of a line is constant, so that a log backend can group lines by event. Everything that varies is in other
fields. The text format writes the event and the fields as one sentence.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LIBRARIES = {
    "kopf": logging.WARNING,
    "kubernetes": logging.WARNING,
    "urllib3": logging.ERROR,
    "asyncio": logging.WARNING,
}
"""The minimum level at which each library's lines are logged. The libraries use the levels differently."""
STANDARD = {"timestamp", "level", "logger", "event", "exc_info", "stack", "stack_info", "exception"}
"""The fields that every line can have, whatever its event."""
SUBJECTS = ("vm", "lease", "task")
"""The fields that identify the subject of a line. The text format begins with them."""
IDENTITY = (*SUBJECTS, "node")
"""The fields by which lines with the same event are no repeats of each other."""
REPEAT_EVERY_S = 30.0
"""A repeated warning is logged once in this time."""


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send all lines of the process to the stream (None: stderr).

    `log_format` is "text" or "json". With `level` "debug", all lines of the libraries are logged too.
    """
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
        handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, least in LIBRARIES.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else least)
    logging.captureWarnings(capture=True)


class RepeatFilter(logging.Filter):
    """Drops warnings and errors that repeat within `REPEAT_EVERY_S`. Thread-safe.

    Two lines are repeats if they have the same event and the same fields `IDENTITY`. Lines of a library have no event:
    those of one logger and one level count as repeats, because a library words each attempt differently. Lines below
    the level warning, and virtsync's own lines with a traceback, are never dropped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s: dict[tuple[str, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log this line."""
        ours: EventDict | None = record.msg if isinstance(record.msg, dict) else None
        if record.levelno < logging.WARNING or (ours and ours.get("exc_info")):
            return True
        about = (ours["event"], *(str(ours.get(field, "")) for field in IDENTITY)) if ours else (record.levelname,)
        now_s, warning = self._clock(), (record.name, *about)
        with self._lock:  # a handler calls its filters before it acquires its own lock
            if self._until_s.get(warning, now_s) > now_s:
                return False
            self._until_s = {one: until_s for one, until_s in self._until_s.items() if until_s > now_s}
            self._until_s[warning] = now_s + REPEAT_EVERY_S
            return True


def sentence(line: Mapping[str, Any]) -> str:
    """Return a line as text: its subject, the event, the message, the error, and the other fields in parentheses."""
    fields = {name: value for name, value in line.items() if name not in STANDARD and value not in (None, "")}
    about = [str(fields.pop(name)) for name in SUBJECTS if name in fields]
    why = [str(fields.pop(name)) for name in ("message", "error") if name in fields]
    rest = f" ({', '.join(f'{name}={value}' for name, value in fields.items())})" if fields else ""
    return ": ".join([*about, str(line["event"]), *why]) + rest


def _rendering(log_format: str, stream: TextIO) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    console = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return [_as_sentence, console]


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, **event}


def _as_sentence(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if name in STANDARD - {"logger"}} | {"event": sentence(event)}
