"""kube-apiserver's record of its answers: what agents have read and written, and what managers have written."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]
READS_AND_WRITES = {"create", "get", "patch", "update"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API server with an object; Unix time."""

    asked_s: float
    answered_s: float
    user: str
    shown: Json
    """The object in the answer."""
    sent: Json | None = None
    """What the request wrote; None: it only read."""
    lost: bool = False
    """It never reached the client: the client does not know it, and what it wrote is on record all the same."""

    @property
    def kind(self) -> str:
        """The kind of the object."""
        return str(self.shown["kind"])

    @property
    def name(self) -> str:
        """The name of the object."""
        return str(self.shown["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Span:
    """A time span, in Unix time."""

    begin_s: float
    end_s: float


def answers(
    log: Path, users: Iterable[str], offset: int = 0, *, lost: Collection[str] = ()
) -> tuple[list[Answer], int]:
    """The successful answers to these users, in kube-apiserver's log from this offset on; and the end of the log.

    Answers whose audit ids are in `lost` never reached the users.
    """
    lines, end = whole_lines(log, offset)
    records = (json.loads(line) for line in lines if line.startswith("{"))
    return [
        Answer(
            unix_time(r["requestReceivedTimestamp"]),
            unix_time(r["stageTimestamp"]),
            user,
            r["responseObject"],
            sent=None if r["verb"] == "get" else r.get("requestObject", {}),
            lost=r["auditID"] in lost,
        )
        for r in records
        if (user := r["user"].get("username")) in users
        and r["verb"] in READS_AND_WRITES
        and r.get("responseStatus", {}).get("code") in {200, 201}
        and r.get("responseObject", {}).get("kind") in {"VirtualMachine", "Hypervisor", "Lease"}
    ], end


def condition(known: Json, kind: str = "Ready") -> Json:
    """A condition of an object; empty: it has none of this type."""
    conditions: list[Json] = known.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def overlap_s(span: Span, others: Iterable[Span]) -> float:
    """How much of this span the other spans cover."""
    covered_s, end_s = 0.0, span.begin_s
    for one in sorted(others, key=lambda one: one.begin_s):
        covered_s += max(0.0, min(span.end_s, one.end_s) - max(end_s, one.begin_s))
        end_s = max(end_s, one.end_s)
    return covered_s


def whole_lines(log: Path, offset: int) -> tuple[list[str], int]:
    """The complete lines from this offset on, and the offset after them."""
    if not log.exists():
        return [], offset
    with log.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), offset + len(whole)


def unix_time(text: str) -> float:
    """The Unix time of an API server's or libvirtd's time."""
    return datetime.fromisoformat(text).timestamp()
