"""A process of virtsync, as on a node or in a cluster: start it, query it, kill it, read its log."""

import http.client
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.runtime.logs import sentence
from lab import LabError, web
from lab.processes import Process, last_lines

READY_TIMEOUT_S = 60
END_TIMEOUT_S = 30
"""A process ends within 10 s; the rest is a margin for a busy machine."""


class Program:
    """A command of virtsync with its flags, which are named without the dashes.

    `settings` can be changed at each start; `fixed` are the other flags. `module` is the Python module that runs,
    `python` the interpreter, and `env` is added to this process's environment. The process ends with its owner. Any
    thread may read from it.
    """

    def __init__(
        self,
        command: str,
        name: str,
        *,
        log: Path,
        fixed: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
        kubeconfig: Path,
        module: str = "controller",
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.settings = dict(settings or {})
        self._fixed = dict(fixed) | {
            "kubeconfig": str(kubeconfig),
            "log-format": "json",
            "http-address": "127.0.0.1",
            "http-port": "0",
        }
        self._words = [str(python or sys.executable), "-m", module, command]
        self._log_begins = 0
        # The Kubernetes client copies certificates to files. They are in the log's folder and are removed with it, also
        # when the process is killed before it can remove them.
        inherited = os.environ | {"TMPDIR": str(log.parent)}
        self._process = Process(name, [], log=log, env=inherited | dict(env or {}))

    def start(self, **changes: str) -> None:
        """Start the process and return when /readyz is OK; `changes` to its settings are kept (`boot_id="b"`)."""
        self.launch(**changes)
        self.wait_until_ready()

    def launch(self, **changes: str) -> None:
        """Start the process and return immediately; `changes` to its settings are kept."""
        self.settings |= {name.replace("_", "-"): value for name, value in changes.items()}
        flags = self._fixed | self.settings
        words = [word for name, value in flags.items() for word in ((f"--{name}", value) if value else (f"--{name}",))]
        self._process.command = [*self._words, *words]
        self._log_begins = len(self.log_lines())
        self._process.start()

    def wait_until_ready(self) -> None:
        """Wait until the process is ready; LabError with the end of its log if it does not become ready."""
        self._process.wait_until(self.ready, timeout_s=READY_TIMEOUT_S)

    def stop(self, *, timeout_s: float = END_TIMEOUT_S) -> None:
        """Ask the process to end (SIGTERM), and return when it has ended; does nothing if it does not run.

        LabError with the end of its log if it does not end within the time (it is then killed), or if it ends with an
        error.
        """
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            code = self.wait_until_ended(timeout_s=timeout_s)
        finally:
            self.kill()
        # The signal itself ends a process that has only just been started.
        if code not in {0, -signal.SIGTERM}:
            raise LabError(
                f"{self.name.capitalize()} ended in disorder ({code}); the end of {self.log}:\n{last_lines(self.log)}"
            )

    def signal(self, number: int) -> None:
        """Send the process a signal, and return immediately."""
        self._process.signal(number)

    def wait_until_ended(self, *, timeout_s: float = END_TIMEOUT_S) -> int:
        """Wait until the process has ended on its own; its exit code, or minus a signal. LabError if it still runs."""
        return self._process.wait_until_ended(timeout_s=timeout_s)

    def kill(self) -> None:
        """Kill the process with SIGKILL, like a crash, and return when it has ended."""
        self._process.kill()

    def restart(self, **changes: str) -> None:
        """Kill the process with SIGKILL and start it again, with changed settings if any are named."""
        self.kill()
        self.start(**changes)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.running

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ready(self) -> bool:
        """Whether /readyz is OK now; a process that does not answer is not ready."""
        try:
            return self.ask("/readyz")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def metrics(self) -> str:
        """The metrics, as Prometheus would scrape them."""
        return self.ask("/metrics")[1]

    def ask(self, path: str) -> tuple[int, str]:
        """GET a path of the process's HTTP server: the status and the body."""
        ports = [line["http_port"] for line in self.log_lines()[self._log_begins :] if "http_port" in line]
        if not ports:
            raise ConnectionRefusedError(f"{self.name.capitalize()} has not said on which port it listens.")
        return web.get(ports[-1], path)

    def log_lines(self) -> list[dict[str, Any]]:
        """The log lines of all its starts; lines that are not JSON (a traceback) are left out."""
        if not self.log.exists():
            return []
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def log_sentences(self) -> list[str]:
        """The same lines, as readable sentences."""
        return [sentence(line) for line in self.log_lines()]
