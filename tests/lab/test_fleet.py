"""`make fleet` on a tiny fleet: each phase works on the real API server, and nothing is left behind."""

import asyncio
import json
import os
import select
import signal
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fleet import limits
from fleet.client import Client, Ended, Failed, Login, Tally
from lab import LabError, binaries

HANG_LIMIT_S = 380
NODES, VMS = 5, 20
SILENT = 2
"""A third of the nodes, rounded up."""
RUN = [sys.executable, "-m", "fleet", f"--nodes={NODES}", f"--vms={VMS}", "--writes=10"]
# Six seconds without rights contain a renewal of each agent.
SHORT = ["--seconds=1", "--outage=2", "--rights=6", "--relist-spread=1"]
ENV = os.environ | {"PYTHONPATH": str(binaries.MODULE.parent)}


def measured(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The figures of a run, and its table."""
    done = subprocess.run(
        [*RUN, *SHORT, f"--folder={folder}", *options],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads((folder / "fleet.json").read_text())
    return figures, done.stdout


@pytest.mark.long
@pytest.mark.timeout(400)
def test_each_phase_that_needs_no_manager_measures_something(tmp_path: Path) -> None:
    figures, table = measured(tmp_path, "--no-manager")
    assert figures["fill"]["vm_kb"] == pytest.approx(2.4, abs=0.4), "VMs are as large as the formulae assume"
    assert figures["idle"]["server_rss_mib"] > 50
    assert figures["writes"]["write"]["statuses"].keys() <= {"200", "409"}, "agents may write the statuses of their VMs"
    assert figures["writes"]["write"]["statuses"]["200"] > 0
    assert all(figures["lists"][kind]["lists"] > 0 for kind in ("filtered", "leases", "table", "hypervisors"))
    assert figures["herd"].keys() >= {"with", "without"}, "the manifests have a flow control"
    assert all(figures["herd"][how]["lists"] == 2 * NODES for how in ("with", "without"))
    assert figures["outage"]["marked_vms"] == 0
    assert figures["outage"]["lists"] >= NODES, "each agent lists once after an outage"
    assert figures["rights"]["refused_per_s"] > 0, "without rights they are refused"
    assert "there is no manager" in table
    assert "2 x N x M x 0.8 us" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.json", "fleet.log"]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_manager_marks_the_vms_of_silent_agents_and_nobody_else(tmp_path: Path) -> None:
    figures, table = measured(tmp_path, "--lease-duration=20", "--only=writes,mark_storm,outage,rights")
    storm = figures["mark_storm"]
    assert storm["marks"] == SILENT * VMS // NODES
    assert storm["first_s"] >= 20 * 3 / 4, "not before the grace is over"
    assert storm["renewals_429"] == 0
    assert figures["outage"]["marks_made"] == figures["rights"]["marks_made"] == 0
    assert figures["outage"]["marked_vms"] == 0
    assert "BROKEN" not in table


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*RUN, f"--folder={tmp_path}", "--no-manager", "--seconds=600"], env=ENV, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        while not process.stderr.readline().endswith("idle ...\n"):
            assert process.poll() is None
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        ends = [os.pidfd_open(pid) for pid in children]
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(HANG_LIMIT_S) != 0
    for end in ends:
        assert select.select([end], [], [], HANG_LIMIT_S)[0], "a child still runs"
        os.close(end)


def test_a_size_that_memory_does_not_allow_is_refused_in_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fleet", "--vms=1000000000"], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: 50 nodes with 1000000000 VMs take about ")


def test_a_size_that_the_limit_of_open_files_does_not_allow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 1000))
    with pytest.raises(LabError, match="200 nodes take 1300 open files, and the limit is 1000"):
        limits.check(200, 1)


def test_a_cancellation_is_not_lost_in_the_time_out_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp raises TimeoutError if both come at once. The agent would never end, and nor would the measurement."""

    class TimesOut:
        async def __aenter__(self) -> None:
            try:
                await asyncio.sleep(HANG_LIMIT_S)
            except asyncio.CancelledError:
                raise TimeoutError from None

        async def __aexit__(self, *_: object) -> None: ...

    async def ask_for_ever(client: Client, *, watch: bool) -> None:
        while True:
            with suppress(Failed):
                if watch:
                    async for _ in client.watch("/"):
                        pass
                else:
                    await client.ask("list", "GET", "/")

    async def ends() -> None:
        async with Client(Login("http://127.0.0.1:1", ssl.create_default_context(), ""), Tally()) as client:
            for method in ("get", "request"):
                monkeypatch.setattr(aiohttp.ClientSession, method, lambda *_args, **_options: TimesOut())
            tasks = [asyncio.create_task(ask_for_ever(client, watch=watch)) for watch in (False, True)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            done, _ = await asyncio.wait(tasks, timeout=5)
            assert done == set(tasks)
            assert all(task.cancelled() for task in tasks)

    asyncio.run(ends())


def test_a_percentile_is_a_value_that_was_measured() -> None:
    ended = Ended(latencies_ms=[float(value) for value in range(100, 0, -1)])
    assert (ended.percentile_ms(50), ended.percentile_ms(99)) == (51.0, 100.0)
    assert Ended().percentile_ms(99) == 0.0
