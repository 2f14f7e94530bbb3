"""What is given on the command line or in the environment becomes the settings, and nothing else does."""

import re
from pathlib import Path

import click
import pytest

from controller.agent.settings import BOOT_ID, Settings
from controller.api.setting import Duration
from controller.cli.agent import agent
from controller.cli.options import build, misspelled
from controller.fleet.silence import GRACE_MOST_S
from controller.policy.waits import Waits


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in agent.params:
        monkeypatch.delenv(str(option.envvar), raising=False)


def settings(*words: str) -> Settings:
    with agent.make_context("agent", list(words)) as context:
        return build(Settings, dict(context.params))


def test_what_is_not_given_is_as_the_settings_have_it() -> None:
    assert settings("--node-name", "a", "--boot-id", "b") == Settings(node_name="a", boot_id="b")


def test_the_boot_is_the_kernels_own_unless_given() -> None:
    assert settings("--node-name", "a").boot_id == BOOT_ID.read_text().strip()


def test_each_flag_sets_its_own_field(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()
    words = f"""
        --node-name a.example --boot-id b --libvirt-uri test:///default --kubeconfig {kubeconfig} --observe-only
        --start-parallel 4 --start-interval 8s --resync-libvirt 9s --resync-api 10s --relist-spread 23s --workers 6
        --http-address ::1 --http-port 0 --log-format json --log-level error --vm-metrics drift
        --report-unmanaged false --ignore-domains instance-.*
        --lease-namespace agents --identity pod-1 --lease-duration 22s
        --settle-power 11s --settle-pause 12s --acpi-resend 13s --force-wait 14s --backoff-first 15s --backoff-max 16s
        --backoff-forget 17s --brake-window 18s --brake-count 19 --brake-hold 20s --schedule-confirm 21s
            --renew-after 24s
    """
    assert {option.opts[0] for option in agent.params} <= set(words.split())
    assert settings(*words.split()) == Settings(
        node_name="a.example",
        boot_id="b",
        libvirt_uri="test:///default",
        kubeconfig=kubeconfig,
        observe_only=True,
        lease_namespace="agents",
        identity="pod-1",
        lease_duration_s=22,
        start_parallel=4,
        start_interval_s=8,
        resync_libvirt_s=9,
        resync_api_s=10,
        relist_spread_s=23,
        workers=6,
        http_address="::1",
        http_port=0,
        log_format="json",
        log_level="error",
        vm_metrics="drift",
        report_unmanaged=False,
        ignore_domains=re.compile("instance-.*"),
        renew_after_s=24,
        waits=Waits(
            settle_power_s=11,
            settle_pause_s=12,
            acpi_resend_s=13,
            force_wait_s=14,
            backoff_first_s=15,
            backoff_max_s=16,
            backoff_forget_s=17,
            brake_window_s=18,
            brake_count=19,
            brake_hold_s=20,
            schedule_confirm_s=21,
        ),
    )


def test_the_environment_sets_what_no_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "from-the-environment")
    monkeypatch.setenv("VIRTSYNC_SETTLE_PAUSE", "never")
    monkeypatch.setenv("VIRTSYNC_OBSERVE_ONLY", "true")
    monkeypatch.setenv("VIRTSYNC_WORKERS", "2")
    monkeypatch.setenv("VIRTSYNC_REPORT_UNMANAGED", "false")
    found = settings("--workers", "3")
    assert (found.node_name, found.waits.settle_pause_s, found.observe_only, found.workers) == (
        "from-the-environment",
        None,
        True,
        3,
    )
    assert not found.report_unmanaged


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("VIRTSYNC_SETLE_POWER", "did you mean VIRTSYNC_SETTLE_POWER?"),
        ("VIRTSYNC_RESYNC_LIBVIRT_SECONDS", "did you mean VIRTSYNC_RESYNC_LIBVIRT?"),
        ("VIRTSYNC_OBSERVEONLY", "did you mean VIRTSYNC_OBSERVE_ONLY?"),
        ("VIRTSYNC_NODE_NAME", "did you mean NODE_NAME?"),
        ("VIRTSYNC_LIBVIRT_URL", "did you mean LIBVIRT_URI?"),
        ("VIRTSYNC_XYZZY", "virtsync agent --help lists the valid ones."),
    ],
)
def test_a_variable_that_looks_like_ours_and_is_none_is_named_with_the_nearest(variable: str, hint: str) -> None:
    known = [str(option.envvar) for option in agent.params]
    told = misspelled([*known, variable, "PATH", "LIBVIRT_URL"], agent)
    assert list(told) == [f"{variable} has no effect: {hint}"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("15m", 900), ("1h", 3600), ("500ms", 0.5), ("90", 90), ("1.5s", 1.5), ("0", 0), ("8760h", 31536000)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert Duration().parse(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "10 s", "1h30m", "nan", "inf", "1e3", "never", "8761h", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration like|is out of bounds"):
        Duration().parse(text)


def test_a_wait_that_begins_longer_than_it_may_get_is_refused() -> None:
    with pytest.raises(ValueError, match="--backoff-first must not be longer than --backoff-max"):
        settings("--node-name", "a", "--backoff-first", "301s")


def test_a_lease_that_outlasts_the_patience_of_the_manager_is_refused() -> None:
    """The manager waits `GRACE_MOST_S` at most for a renewal, and the agent renews four times in a Lease."""
    settings("--node-name", "a", "--lease-duration", f"{GRACE_MOST_S:g}s")
    with pytest.raises(click.BadParameter, match="it must be between 2s and 300s"):
        settings("--node-name", "a", "--lease-duration", f"{GRACE_MOST_S + 1:g}s")


def test_a_lease_for_half_a_second_more_is_refused_for_the_api_counts_whole_ones() -> None:
    with pytest.raises(ValueError, match="--lease-duration must be whole seconds"):
        settings("--node-name", "a", "--lease-duration", "40500ms")
