"""The agent as a process of its own, as a node runs it: started, asked, killed and read."""

import http.client
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.runtime.logs import sentence
from lab import LabError
from lab.controlplane import ControlPlane
from lab.processes import Process, last_lines

ACTION_ENDED = "action ended"
"""The event of the line that an agent logs for each action on a domain."""
READY_TIMEOUT_S = 60
END_TIMEOUT_S = 30
"""It goes within 10 s; the rest is for a machine that is busy."""


class Agent:
    """`virtsync agent` for one node and one libvirt; `settings` are its other flags without the dashes.

    It is the administrator unless given another kubeconfig; `module` is the Python module that is run, and `env` is
    added to our environment. A process of its own that ends with its owner. Any thread may read from it.
    """

    def __init__(
        self,
        controlplane: ControlPlane,
        libvirtd_uri: str,
        node: str,
        *,
        log: Path,
        settings: Mapping[str, str] | None = None,
        kubeconfig: Path | None = None,
        module: str = "controller",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.node = node
        self.log = log
        self.settings = dict(settings or {})
        self._fixed = {
            "node-name": node,
            "libvirt-uri": libvirtd_uri,
            "kubeconfig": str(kubeconfig or controlplane.kubeconfig),
            "log-format": "json",
            "http-address": "127.0.0.1",
            "http-port": "0",
        }
        self._module = module
        self._log_begins = 0
        # The client's copies of certificates go with the log's folder, even where the agent is killed before it can
        # remove them.
        inherited = os.environ | {"TMPDIR": str(log.parent)}
        self._process = Process(f"the agent of {node}", [], log=log, env=inherited | dict(env or {}))

    def start(self, **changes: str) -> None:
        """Start it and return when /readyz says so; `changes` to its settings stay (`boot_id="b"`)."""
        self.launch(**changes)
        self.wait_until_ready()

    def launch(self, **changes: str) -> None:
        """Start it and return at once; `changes` to its settings stay."""
        self.settings |= {name.replace("_", "-"): value for name, value in changes.items()}
        flags = self._fixed | self.settings
        words = [word for name, value in flags.items() for word in ((f"--{name}", value) if value else (f"--{name}",))]
        self._process.command = [sys.executable, "-m", self._module, "agent", *words]
        self._log_begins = len(self.log_lines())
        self._process.start()

    def wait_until_ready(self) -> None:
        """Wait until it serves its node; LabError with the end of its log if it does not."""
        self._process.wait_until(self.ready, timeout_s=READY_TIMEOUT_S)

    def stop(self, *, timeout_s: float = END_TIMEOUT_S) -> None:
        """Ask it to end (SIGTERM), and return when it is gone; nothing happens if it does not run.

        LabError with the end of its log if it does not end within the time, and then it is killed, or ends in disorder.
        """
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            code = self.wait_until_ended(timeout_s=timeout_s)
        finally:
            self.kill()
        # The signal itself ends one that has only just been started.
        if code not in {0, -signal.SIGTERM}:
            raise LabError(
                f"The agent of {self.node} ended in disorder ({code}); the end of {self.log}:\n{last_lines(self.log)}"
            )

    def signal(self, number: int) -> None:
        """Send it a signal, and return at once."""
        self._process.signal(number)

    def wait_until_ended(self, *, timeout_s: float = END_TIMEOUT_S) -> int:
        """Wait until it has ended by itself; its exit code, or minus a signal. LabError if it runs on."""
        return self._process.wait_until_ended(timeout_s=timeout_s)

    def kill(self) -> None:
        """Kill it with -9, as a crash would, and return when it is gone."""
        self._process.kill()

    def restart(self, **changes: str) -> None:
        """Kill it with -9 and start it again, with other settings if any are named."""
        self.kill()
        self.start(**changes)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.running

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ready(self) -> bool:
        """What /readyz says now; a process that does not answer is not ready."""
        try:
            return self.ask("/readyz")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def metrics(self) -> str:
        """What Prometheus would read from it."""
        return self.ask("/metrics")[1]

    def ask(self, path: str) -> tuple[int, str]:
        """GET a path of its own HTTP server: the status and the body."""
        ports = [line["http_port"] for line in self.log_lines()[self._log_begins :] if "http_port" in line]
        if not ports:
            raise ConnectionRefusedError(f"The agent of {self.node} has not said on which port it listens.")
        connection = http.client.HTTPConnection("127.0.0.1", ports[-1], timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def log_lines(self) -> list[dict[str, Any]]:
        """What it has logged, over all its starts; lines that are not JSON (a traceback) are left out."""
        if not self.log.exists():
            return []
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def log_sentences(self) -> list[str]:
        """The same lines as people read them."""
        return [sentence(line) for line in self.log_lines()]

    def acts(self, key: str) -> list[str]:
        """The acts on one VM (`namespace/name`) that have ended, in order: `START done`, `DESTROY refused`."""
        # An agent of the version before, as the tests of upgrades run it, calls the action `verb`.
        told = [line for line in self.log_lines() if line.get("vm") == key and "result" in line]
        return [f"{line.get('action', line.get('verb'))} {line['result']}" for line in told]
