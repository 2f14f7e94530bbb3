"""The command line: every setting, what it is for, and one clear sentence where one is wrong."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click

from controller import __version__
from controller.agent.settings import Settings
from controller.policy.waits import Waits
from controller.runtime.errors import Rejected

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
LONGEST_S = 365 * 24 * 3600.0
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NODE_NAME = re.compile(rf"{LABEL}(\.{LABEL})*")
LIBVIRT_URI = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?:///[!-~]+")
OURS = "VIRTSYNC_"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Command = TypeVar("Command", bound=Callable[..., Any])


def durations(*, least_s: float = 0.0, never: bool = False) -> Callable[[str], float | None]:
    """Read seconds from 500ms, 10s, 15m, 1h or a plain number; None from never, where that may be."""

    def duration(value: str) -> float | None:
        if never and value == "never":
            return None
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", value)
        if not found:
            examples = "500ms, 10s, 15m or 1h" + (", or never" if never else "")
            raise click.BadParameter(f"{value!r} is not a duration like {examples}.")
        seconds = float(found[1]) * UNIT_S[found[2]]
        if not least_s <= seconds <= LONGEST_S:
            limits = f"between {least_s:g}s and {LONGEST_S / 3600:g}h"
            raise click.BadParameter(f"{value!r} is out of bounds: it must be {limits}.")
        return seconds

    return duration


def name(value: str) -> str:
    """Read the name of a Kubernetes Node."""
    if len(value) > 253 or not NODE_NAME.fullmatch(value):
        words = "lower case letters, digits, '-' and '.', at most 253"
        raise click.BadParameter(f"{value!r} cannot be the name of a Node ({words}).")
    return value


def uri(value: str) -> str:
    """Read the URI of a libvirt on this machine."""
    if not LIBVIRT_URI.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not the URI of a libvirt on this machine like qemu:///system.")
    return value


def address(value: str) -> str:
    """Read an address to listen on, or `*`."""
    try:
        return value if value == "*" else str(ipaddress.ip_address(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IPv4 or IPv6 address, nor * for every one.") from None


def boot(value: str) -> str:
    """Read what `status.nodeBootID` has room for."""
    if not re.fullmatch(r"[!-~]{1,128}", value):
        raise click.BadParameter(f"{value!r} is not 1 to 128 characters without spaces.")
    return value


def namespace(value: str) -> str:
    """Read the name of a namespace."""
    if len(value) > 63 or not re.fullmatch(LABEL, value):
        words = "lower case letters, digits and '-', at most 63"
        raise click.BadParameter(f"{value!r} cannot be the name of a namespace ({words}).")
    return value


def identity(value: str) -> str:
    """Read what a Lease may say of its holder."""
    if not re.fullmatch(r"[!-~]{1,128}", value):
        raise click.BadParameter(f"{value!r} is not 1 to 128 characters without spaces.")
    return value


class Setting(click.Option):
    """A flag below a heading of --help, with its environment variable."""

    def __init__(self, *names: Any, section: str, **attributes: Any) -> None:
        super().__init__(*names, **({"show_envvar": True, "show_default": True} | attributes))
        self.section = section


class Sectioned(click.Command):
    """A command whose --help has its flags below headings, in the order of their declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags."""
        for heading, settings in groupby(self.get_params(ctx), lambda one: getattr(one, "section", "Help")):
            with formatter.section(heading):
                formatter.write_dl([record for one in settings if (record := one.get_help_record(ctx))])


class Refused(click.ClickException):
    """Settings that can never work."""

    exit_code = 2


def section(heading: str) -> Callable[..., Callable[[Command], Command]]:
    """What declares flags below this heading; the second name of a flag is that of its field in Settings or Waits."""

    def setting(flag: str, field: str, env: str, **attributes: Any) -> Callable[[Command], Command]:
        return click.option(flag, field, envvar=env, cls=Setting, section=heading, **attributes)

    return setting


node = section("Which node, which libvirt, which cluster")
lease = section("One agent a node")
patience = section("How patient it is with what others do")
starting = section("How it starts VMs")
stopping = section("How it stops VMs")
looking = section("How it looks")
telling = section("What it tells")
testing = section("For tests")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="virtsync")
def main() -> None:
    """Keep the libvirt VMs of a node as their VirtualMachine objects in Kubernetes say.

    One agent runs on each node: see virtsync agent --help.
    """


@main.command(cls=Sectioned)
@node(
    "--node-name",
    "node_name",
    "NODE_NAME",
    type=name,
    required=True,
    help="The Node that this is; the agent looks after the VirtualMachines with this spec.nodeName.",
)
@node("--libvirt-uri", "libvirt_uri", "LIBVIRT_URI", type=uri, default="qemu:///system", help="Its libvirt.")
@node(
    "--kubeconfig",
    "kubeconfig",
    "KUBECONFIG",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    show_default="the Pod's service account, else ~/.kube/config",
    help="How to reach the API server.",
)
@node(
    "--observe-only",
    "observe_only",
    "VIRTSYNC_OBSERVE_ONLY",
    is_flag=True,
    help="Report what the VMs of this node do, and switch none.",
)
@lease(
    "--lease-namespace",
    "lease_namespace",
    "POD_NAMESPACE",
    type=namespace,
    show_default="no Lease",
    help="Where the Lease of the Node is kept; who has it acts. Without one, the lock on libvirt's folder decides.",
)
@lease(
    "--identity",
    "identity",
    "POD_UID",
    type=identity,
    show_default="a random one",
    help="Who holds the Lease: in a Pod its uid, and never the same for two agents.",
)
@lease(
    "--lease-duration",
    "lease_duration_s",
    "VIRTSYNC_LEASE_DURATION",
    type=durations(least_s=2),
    default="40s",
    help="How long after its last renewal another agent may have it: whole seconds; a quarter of them is its period.",
)
@patience(
    "--settle-power",
    "settle_power_s",
    "VIRTSYNC_SETTLE_POWER",
    type=durations(),
    default="10s",
    help="How long a start or a stop by somebody else is left alone before it is corrected; 0: not at all.",
)
@patience(
    "--settle-pause",
    "settle_pause_s",
    "VIRTSYNC_SETTLE_PAUSE",
    type=durations(never=True),
    default="15m",
    help="The same for a pause, a sleeping guest and a save, as backups make them; never: left alone for ever.",
)
@patience(
    "--brake-count",
    "brake_count",
    "VIRTSYNC_BRAKE_COUNT",
    type=click.IntRange(2, 1000),
    metavar="COUNT",
    default=3,
    help="So many VMs that others stop within --brake-window look like a host that shuts down: none is started then.",
)
@patience(
    "--brake-window",
    "brake_window_s",
    "VIRTSYNC_BRAKE_WINDOW",
    type=durations(),
    default="60s",
    help="See --brake-count.",
)
@patience(
    "--brake-hold",
    "brake_hold_s",
    "VIRTSYNC_BRAKE_HOLD",
    type=durations(),
    default="120s",
    help="For how long none is started then, counted from the last stop; 0: no brake.",
)
@starting(
    "--start-parallel",
    "start_parallel",
    "VIRTSYNC_START_PARALLEL",
    type=click.IntRange(1, 4),
    metavar="COUNT",
    default=2,
    help="How many VMs start at the same time; a start that hangs lets one more begin, up to as many again, 4 in all.",
)
@starting(
    "--start-interval",
    "start_interval_s",
    "VIRTSYNC_START_INTERVAL",
    type=durations(),
    default="1s",
    help="The least time between two starts: a power cut must not become a storm.",
)
@starting(
    "--backoff-first",
    "backoff_first_s",
    "VIRTSYNC_BACKOFF_FIRST",
    type=durations(),
    default="10s",
    help="The wait before a VM that failed to start, or keeps going off, is started again; it doubles each time.",
)
@starting(
    "--backoff-max",
    "backoff_max_s",
    "VIRTSYNC_BACKOFF_MAX",
    type=durations(),
    default="300s",
    help="The longest such wait.",
)
@starting(
    "--backoff-forget",
    "backoff_forget_s",
    "VIRTSYNC_BACKOFF_FORGET",
    type=durations(),
    default="600s",
    help="How long a VM must run until its failures are forgotten.",
)
@stopping(
    "--acpi-resend",
    "acpi_resend_s",
    "VIRTSYNC_ACPI_RESEND",
    type=durations(least_s=0.1),
    default="10s",
    help="How often the power button of a VM is pressed again: a guest that still boots does not notice it.",
)
@stopping(
    "--force-wait",
    "force_wait_s",
    "VIRTSYNC_FORCE_WAIT",
    type=durations(),
    default="30s",
    help="The least time between the first press by this agent and force, also when the deadline is over already.",
)
@looking(
    "--resync-libvirt",
    "resync_libvirt_s",
    "VIRTSYNC_RESYNC_LIBVIRT",
    type=durations(least_s=1),
    default="60s",
    help="How often all domains are listed; events tell sooner.",
)
@looking(
    "--resync-api",
    "resync_api_s",
    "VIRTSYNC_RESYNC_API",
    type=durations(least_s=1),
    default="600s",
    help="How often all objects of the node are listed; the watch tells sooner.",
)
@looking(
    "--relist-spread",
    "relist_spread_s",
    "VIRTSYNC_RELIST_SPREAD",
    type=durations(),
    default="10s",
    help="Within this time after an outage of the API server they are listed: the agents of a cluster not all at once.",
)
@looking(
    "--workers",
    "workers",
    "VIRTSYNC_WORKERS",
    type=click.IntRange(1, 8),
    metavar="COUNT",
    default=8,
    help="How many VMs are looked at in parallel; one that libvirt does not answer for costs one of them.",
)
@telling(
    "--log-format",
    "log_format",
    "VIRTSYNC_LOG_FORMAT",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Sentences for people, or the same with fields for machines.",
)
@telling(
    "--log-level",
    "log_level",
    "VIRTSYNC_LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="The least that is worth a line.",
)
@telling(
    "--http-address",
    "http_address",
    "VIRTSYNC_HTTP_ADDRESS",
    type=address,
    default="*",
    help="Where /livez, /readyz and /metrics are served: one address, or * for every one, IPv4 and IPv6.",
)
@telling(
    "--http-port",
    "http_port",
    "VIRTSYNC_HTTP_PORT",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=8080,
    help="Their port; 0: any free one, which the log tells.",
)
@testing(
    "--boot-id",
    "boot_id",
    "VIRTSYNC_BOOT_ID",
    type=boot,
    show_default=str(BOOT_ID),
    help="Tells one boot of the node from the next.",
)
@testing(
    "--schedule-confirm",
    "schedule_confirm_s",
    "VIRTSYNC_SCHEDULE_CONFIRM",
    type=durations(),
    default="10s",
    help="How far apart two looks must agree that the time of a scheduled restart has come.",
)
def agent(**given: Any) -> None:
    """Look after the VMs of one node, until SIGTERM.

    Events of libvirt become the status of VirtualMachine objects within milliseconds. Where a VM is not as its
    spec.powerState says, it is started, stopped or paused, once whoever changed it has had time to change it back.

    Durations are 500ms, 10s, 15m, 1h or plain seconds; 0 is at once. Each flag may be given by the environment
    variable that stands beside it.

    \b
    A first try that switches nothing:
      virtsync agent --node-name "$(hostname)" --observe-only
    """
    # Imported here, so that --help and a wrong value answer at once.
    import structlog  # noqa: PLC0415

    from controller.runtime import logs  # noqa: PLC0415

    logs.configure(given["log_format"], given["log_level"])
    for sentence in misspelt(os.environ):
        structlog.get_logger().warning(sentence)
    try:
        settings = settings_of(given)
        from controller.agent import app  # noqa: PLC0415

        sys.exit(app.run(settings))
    except Rejected as error:
        raise Refused(str(error)) from error


def misspelt(variables: Iterable[str]) -> Iterator[str]:
    """A sentence for each environment variable that looks like one of virtsync's and is none."""
    known = {str(option.envvar) for option in agent.params}
    by_end = {one.removeprefix(OURS): one for one in known}
    for variable in sorted(set(variables) - known):
        if variable.startswith(OURS):
            near = get_close_matches(variable.removeprefix(OURS), by_end, n=1)
            hint = f"did you mean {by_end[near[0]]}?" if near else "virtsync agent --help lists those that have."
            yield f"The environment variable {variable} has no effect: {hint}"


def settings_of(given: dict[str, Any]) -> Settings:
    """The settings that these values of flags make, by the names of their fields. Raises Rejected."""
    waits = Waits(**{field.name: given.pop(field.name) for field in fields(Waits)})
    if waits.backoff_first_s > waits.backoff_max_s:
        raise Rejected("--backoff-first may not be longer than --backoff-max.")
    if not given["lease_duration_s"].is_integer():
        raise Rejected("--lease-duration must be whole seconds.")
    return Settings(**given | {"boot_id": given["boot_id"] or _boot_id()}, waits=waits)


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError as error:
        raise Rejected(f"Cannot read {BOOT_ID} ({error.strerror}): set --boot-id.") from error
