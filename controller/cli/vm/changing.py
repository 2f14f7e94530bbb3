"""How a command changes objects: it asks who owns the field, changes it, and waits for the agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from controller.api.changes import Change, Unchanged
from controller.api.json_mapping import Json, as_map
from controller.api.owners import field_owner, object_owner
from controller.api.progress import Progress, Stage
from controller.api.setting import Duration
from controller.cli.options import reads
from controller.cli.vm.cluster import Cluster
from controller.cli.vm.output import show_objects, with_output
from controller.presentation.words import plain
from controller.runtime.errors import Rejected, Transient, Vanished

if TYPE_CHECKING:
    from controller.kube.writes import Writes

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Decided = Change | Unchanged

POLL_INTERVAL_S = 1.0
NOT_DONE, ERROR = 1, 2
"""The exit codes if a change was made but is not done, and if an object could not be changed, or nobody knows."""


@dataclass(frozen=True, slots=True)
class Task:
    """The change of one object."""

    label: str
    """The object as the output names it, such as `shop/web-1`."""
    path: str
    decide: Callable[[Json], Decided]
    """Raises ValueError if the change makes no sense."""
    progress: Callable[[Json, Decided, int], Progress] | None = None
    """How far the change is, from the object, what was decided, and the generation of the changed object. None: the
    command does not wait."""


def task_of(
    label: str,
    path: str,
    parse: Callable[[Json], T],
    decide: Callable[[T], Decided],
    how_far: Callable[[T, Decided, int], Progress] | None = None,
) -> Task:
    """Return the task of which `decide` and `how_far` get the object as `parse` reads it."""

    def progress(raw: Json, decided: Decided, generation: int) -> Progress:
        assert how_far  # noqa: S101 - otherwise nobody waits
        return how_far(parse(raw), decided, generation)

    return Task(label, path, lambda raw: decide(parse(raw)), progress if how_far else None)


def with_change(command: F) -> F:
    """Add the options --anyway and -o."""
    anyway = click.option(
        "--anyway", is_flag=True, help="Also change a field that comes from Git. Argo CD or Flux will undo the change."
    )
    return anyway(with_output()(command))


def with_wait(command: F) -> F:
    """Add the options --wait and --timeout."""
    wait = click.option("--wait", is_flag=True, help="Wait until the agent has done it.")
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=reads(Duration(least_s=1).parse),
        metavar="DURATION",
        default="10m",
        show_default=True,
        help="How long to wait with --wait, for all objects together.",
    )
    return wait(timeout(command))


def run(
    cluster: Cluster, tasks: Iterable[Task], *, anyway: bool, output: str | None, timeout_s: float = 0.0, single: bool
) -> int:
    """Change all objects, then wait for each. Return the exit code.

    An object that cannot be changed does not keep the others from being changed. Nor does an output that cannot be
    written: its OSError is raised after all changes, and nothing is waited for then. `anyway`: also change a field that
    Git owns. `output`: print the objects in this format, and the messages on stderr. `single`: see `show_objects`.
    """
    # Imported here, so that --help and the error for a wrong value appear without delay.
    from controller.kube.writes import Writes  # noqa: PLC0415

    writes, code = Writes(cluster.api), 0
    changed: list[tuple[Task, Decided, Json]] = []
    unwritten: list[OSError] = []

    def say(task: Task, text: str, *, err: bool) -> None:
        try:
            _say(task, text, err=err)
        except OSError as error:
            unwritten.append(error)

    for task in tasks:
        gate = _Gate(task, anyway=anyway)
        try:
            raw, decided = writes.change(task.path, gate.decide)
        except (ValueError, Rejected, Transient, Vanished) as error:
            say(task, str(error), err=True)
            code = ERROR
            continue
        say(task, decided.said, err=bool(output))
        if gate.warning:
            say(task, gate.warning, err=True)
        changed.append((task, decided, raw))
    if unwritten:
        raise unwritten[0]
    deadline = time.monotonic() + timeout_s
    waited = [_wait(writes, *one, deadline, err=bool(output)) for one in changed if one[0].progress]
    if output:
        show_objects([raw for _, _, raw in changed], output, single=single)
    return code if all(waited) else code or NOT_DONE


class _Gate:
    """Lets a change pass, unless Git owns the field."""

    def __init__(self, task: Task, *, anyway: bool) -> None:
        self._task, self._anyway = task, anyway
        self.warning = ""
        """What the user should know about the last decision; empty: nothing."""

    def decide(self, raw: Json) -> Decided:
        """Return what the task decides. Raises Rejected if Git owns the field and `anyway` is not set."""
        change, self.warning = self._task.decide(raw), ""
        if isinstance(change, Unchanged):
            return change
        if owner := field_owner(raw, change.field):
            undone = f"{change.where} comes from Git, and {owner} will undo this change"
            if not self._anyway:
                raise Rejected(f"{undone}. Nothing was changed: change it in Git, or repeat the command with --anyway")
            self.warning = undone
        elif owner := object_owner(raw):
            self.warning = f"{owner} applies this object, and will undo this change if Git has {change.where}"
        return change


def _wait(writes: Writes, task: Task, decided: Decided, raw: Json, deadline: float, *, err: bool) -> bool:
    """Wait until the change is done, has failed, or the deadline on the monotonic clock has passed.

    Return whether it is done. Writes each new message on stderr, and the last one of a success on stdout unless `err`.
    """
    generation, said = as_map(raw.get("metadata")).get("generation"), ""
    while True:
        progress = _progress(writes, task, decided, generation if isinstance(generation, int) else 0)
        if progress.stage is Stage.DONE:
            _say(task, progress.said, err=err)
            return True
        if progress.said != said:
            said = progress.said
            _say(task, said, err=True)
        left_s = deadline - time.monotonic()
        if progress.stage is Stage.FAILED:
            return False
        if left_s <= 0:
            _say(task, "not done within --timeout. The change stays", err=True)
            return False
        time.sleep(min(POLL_INTERVAL_S, left_s))


def _progress(writes: Writes, task: Task, decided: Decided, generation: int) -> Progress:
    assert task.progress  # noqa: S101 - only such tasks are waited for
    try:
        return task.progress(writes.read(task.path), decided, generation)
    except Vanished:
        return Progress(Stage.FAILED, "somebody has deleted the object")
    except Rejected as error:
        return Progress(Stage.FAILED, str(error))
    except Transient as error:
        return Progress(Stage.WAITING, str(error))


def _say(task: Task, text: str, *, err: bool) -> None:
    click.echo(f"{task.label}: {plain(text).rstrip('.')}.", err=err)
