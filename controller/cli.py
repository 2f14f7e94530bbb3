"""The command line: every setting, what it is for, and one clear sentence where one is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from controller import __version__, logs
from controller.errors import Rejected
from controller.settings import Settings, Waits

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


Command = Callable[..., None]


class Duration(click.ParamType):
    """Seconds, from 500ms, 10s, 15m, 1h or a plain number of seconds."""

    name = "duration"

    def __init__(self, *, never: bool = False, least_s: float = 0.0) -> None:
        self._never, self._least_s = never, least_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """The seconds; None for `never`."""
        if value is None or isinstance(value, float):
            return value
        if self._never and value == "never":
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(value))
        if not found:
            words = "such as 500ms, 10s, 15m or 1h" + (", or never" if self._never else "")
            self.fail(f"{value!r} is not a duration {words}.", param, ctx)
        seconds = float(found[1]) * UNITS[found[2]]
        if seconds < self._least_s:
            self.fail(f"{value!r} is too short: it must be at least {self._least_s:g}s.", param, ctx)
        return seconds


class NodeName(click.ParamType):
    """The name of a Kubernetes node."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if a node can have it."""
        if len(value) > 253 or not NODE_NAME.fullmatch(value):
            self.fail(f"{value!r} cannot be the name of a node: it must be a lower case DNS name.", param, ctx)
        return str(value)


class LibvirtUri(click.ParamType):
    """A libvirt connection URI."""

    name = "uri"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The URI, if it is one."""
        try:
            parts = urlsplit(value)
        except ValueError as error:
            self.fail(f"{value!r} is not a URI: {error}.", param, ctx)
        if not parts.scheme or not value.startswith(f"{parts.scheme}:///"):
            self.fail(f"{value!r} is not a URI of a local libvirt such as qemu:///system.", param, ctx)
        return str(value)


def option(*names: str, env: str, **settings: Any) -> Callable[[Command], Command]:
    """A flag with its environment variable, both shown by --help."""
    return click.option(
        *names, envvar=env, show_envvar=True, show_default=settings.pop("show_default", True), **settings
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="virtsync")
def main() -> None:
    """Keep libvirt VMs as their VirtualMachine objects in Kubernetes say, and tell there what they do."""


@main.command()
@option(
    "--node-name",
    env="NODE_NAME",
    type=NodeName(),
    required=True,
    help="The node whose VMs this agent looks after: those with this spec.nodeName.",
)
@option(
    "--libvirt-uri", env="LIBVIRT_URI", type=LibvirtUri(), default="qemu:///system", help="The libvirt of this node."
)
@option(
    "--kubeconfig",
    env="KUBECONFIG",
    type=click.Path(path_type=Path),
    default=None,
    show_default="the Pod's service account, else ~/.kube/config",
    help="How to reach the API server.",
)
@option("--observe-only", env="OBSERVE_ONLY", is_flag=True, help="Report what VMs do and never switch one.")
@option(
    "--settle-power",
    env="SETTLE_POWER",
    type=Duration(),
    default="10s",
    help="How long a stop or a start that somebody else made is left alone; 0 is not at all.",
)
@option(
    "--settle-pause",
    env="SETTLE_PAUSE",
    type=Duration(never=True),
    default="15m",
    help="The same for a pause, a guest's suspend and a save; 'never' leaves them alone for ever.",
)
@option(
    "--start-parallel", env="START_PARALLEL", type=click.IntRange(1), default=2, help="How many VMs start at a time."
)
@option(
    "--start-interval", env="START_INTERVAL", type=Duration(), default="1s", help="The least time between two starts."
)
@option(
    "--resync-libvirt",
    env="RESYNC_LIBVIRT",
    type=Duration(least_s=1),
    default="60s",
    help="How often all of libvirt is listed; events tell sooner.",
)
@option(
    "--resync-api",
    env="RESYNC_API",
    type=Duration(least_s=1),
    default="10m",
    help="How often all objects of the node are listed; the watch tells sooner.",
)
@option(
    "--workers", env="WORKERS", type=click.IntRange(1, 8), default=4, help="How many VMs are looked at in parallel."
)
@option(
    "--http-address",
    env="HTTP_ADDRESS",
    default="0.0.0.0",  # noqa: S104 - probes come from outside of the Pod
    help="Where /livez, /readyz and /metrics are served.",
)
@option(
    "--http-port",
    env="HTTP_PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    help="Their port; 0 takes any free one, told in the log.",
)
@option(
    "--log-format",
    env="LOG_FORMAT",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Lines for people or for machines.",
)
@option(
    "--log-level",
    env="LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="The least that is worth a line.",
)
@option(
    "--acpi-resend",
    env="ACPI_RESEND",
    type=Duration(least_s=0.1),
    default="10s",
    help="How often a guest is asked again to shut down.",
)
@option(
    "--force-wait",
    env="FORCE_WAIT",
    type=Duration(),
    default="30s",
    help="The least time between asking a guest and forcing it off, whatever an older record says.",
)
@option(
    "--backoff-first",
    env="BACKOFF_FIRST",
    type=Duration(least_s=0.1),
    default="10s",
    help="The wait after a first failed or repeated start; it doubles.",
)
@option("--backoff-max", env="BACKOFF_MAX", type=Duration(least_s=0.1), default="5m", help="The longest such wait.")
@option(
    "--backoff-forget",
    env="BACKOFF_FORGET",
    type=Duration(),
    default="10m",
    help="How long a VM must run for its failures to be forgotten.",
)
@option(
    "--brake-count",
    env="BRAKE_COUNT",
    type=click.IntRange(2),
    default=3,
    help="So many VMs that others stop within --brake-window look like a host that shuts down: nothing is started then.",
)
@option("--brake-window", env="BRAKE_WINDOW", type=Duration(), default="60s", help="See --brake-count.")
@option(
    "--brake-hold",
    env="BRAKE_HOLD",
    type=Duration(),
    default="120s",
    help="How long nothing is started then, from the last stop.",
)
@option(
    "--schedule-confirm",
    env="SCHEDULE_CONFIRM",
    type=Duration(),
    default="10s",
    help="How far apart two looks must agree that the time of a scheduled restart has come.",
)
@option(
    "--boot-id",
    env="BOOT_ID",
    default=None,
    show_default=f"read from {BOOT_ID}",
    help="What tells one boot of the node from the next; for tests.",
)
def agent(**given: Any) -> None:
    """Look after the VMs of one node, until SIGTERM.

    Events of libvirt lead to the status of VirtualMachine objects within milliseconds; where a VM is not as its
    spec.powerState says, it is started, stopped or paused, unless somebody is at work on it.

    \b
    Try it without risk:  virtsync agent --node-name "$(hostname)" --observe-only
    """
    logs.configure(given["log_format"], given["log_level"])
    try:
        settings = _settings(given)
        # Imported here, so that --help and a wrong value answer at once.
        from controller import app  # noqa: PLC0415

        sys.exit(app.run(settings))
    except Rejected as error:
        raise click.UsageError(str(error)) from error


def _settings(given: dict[str, Any]) -> Settings:
    waits = Waits(
        settle_power_s=given["settle_power"],
        settle_pause_s=given["settle_pause"],
        acpi_resend_s=given["acpi_resend"],
        force_wait_s=given["force_wait"],
        backoff_first_s=given["backoff_first"],
        backoff_max_s=given["backoff_max"],
        backoff_forget_s=given["backoff_forget"],
        brake_window_s=given["brake_window"],
        brake_count=given["brake_count"],
        brake_hold_s=given["brake_hold"],
        schedule_confirm_s=given["schedule_confirm"],
    )
    return Settings(
        node_name=given["node_name"],
        boot_id=given["boot_id"] or _boot_id(),
        libvirt_uri=given["libvirt_uri"],
        kubeconfig=given["kubeconfig"],
        observe_only=given["observe_only"],
        waits=waits,
        start_parallel=given["start_parallel"],
        start_interval_s=given["start_interval"],
        resync_libvirt_s=given["resync_libvirt"],
        resync_api_s=given["resync_api"],
        workers=given["workers"],
        http_address=given["http_address"],
        http_port=given["http_port"],
        log_format=given["log_format"],
        log_level=given["log_level"],
    )


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError as error:
        raise Rejected(f"cannot read {BOOT_ID} ({error.strerror}): set --boot-id") from error
