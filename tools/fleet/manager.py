"""The real manager as a separate process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from controller.api.names import MANAGER
from fleet.client import Client, Failed
from fleet.objects import LEASE_NAMESPACE, LEASES
from lab import LabError
from lab.processes import Process, last_lines

START_TIMEOUT_S, END_TIMEOUT_S = 60, 20
POLL_INTERVAL_S = 0.2


class Manager:
    """`virtsync manager` with default settings; use it as a context manager."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        words = ["--namespace", LEASE_NAMESPACE, "--kubeconfig", str(kubeconfig)]
        words += ["--http-address", "127.0.0.1", "--http-port", "0"]
        self._log = log
        self._process = Process("the manager", [sys.executable, "-m", "controller", "manager", *words], log=log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __enter__(self) -> Manager:
        self._process.start()
        return self

    async def until_it_leads(self, administrator: Client) -> None:
        """Wait until it holds the Lease of the leader. LabError with the end of its log if it does not."""
        for _ in range(int(START_TIMEOUT_S / POLL_INTERVAL_S)):
            try:
                lease = await administrator.ask("other", "GET", f"{LEASES}/{MANAGER}")
            except Failed:
                lease = {}
            if lease.get("spec", {}).get("holderIdentity"):
                return
            await asyncio.sleep(POLL_INTERVAL_S)
        raise LabError(f"The manager does not lead after {START_TIMEOUT_S} s; its log ends:\n{last_lines(self._log)}")

    def __exit__(self, *_: object) -> None:
        self._process.stop(timeout_s=END_TIMEOUT_S)
