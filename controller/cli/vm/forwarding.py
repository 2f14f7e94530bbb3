"""Forwards a port of this machine to a Pod, by `kubectl port-forward`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from controller.cli.program import Failure
from controller.cli.vm.cluster import Cluster
from controller.presentation.words import plain

LOCALHOST = "127.0.0.1"
FORWARDING = re.compile(rf"Forwarding from {re.escape(LOCALHOST)}:(\d+) ->")
END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a Pod."""

    namespace: str
    pod: str
    port: int


class Forward:
    """A port of localhost that leads to a port of a Pod; use it as a context manager.

    kubectl connects as it does for its other commands, so each way to log in works here too.
    """

    def __init__(self, cluster: Cluster, target: Target, *, local_port: int) -> None:
        """`local_port`: 0: a free port. Entering raises Failure with the error message of kubectl."""
        self._cluster, self.target, self._local_port = cluster, target, local_port
        self._errors: IO[bytes] | None = None
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """The address for a browser."""
        return f"http://{LOCALHOST}:{self.port}/"

    @property
    def trouble(self) -> str:
        """The last error message of kubectl; empty: there is none."""
        if not self._errors:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return plain(lines[-1].removeprefix("error: ").removeprefix("Error from server ")) if lines else ""

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:  # also a signal that ends this program while kubectl connects
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wait(self) -> None:
        """Return when the connection to the Pod has ended."""
        assert self._process and self._process.stdout  # noqa: S101, PT018 - it was started
        for _ in self._process.stdout:
            pass  # a line for each connection

    def _begin(self) -> None:
        """Start kubectl, and wait until it forwards. Raises Failure."""
        command = self._command()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `_end` closes it
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)  # noqa: S603 - no shell, and the program is kubectl
        assert self._process.stdout  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            if found := FORWARDING.match(line):
                self.port = int(found[1])
                return
        self._process.wait()
        raise Failure(
            f"kubectl cannot forward a port to {self.target.pod}: {self.trouble or 'it printed no error message'}"
        )

    def _command(self) -> list[str]:
        kubectl = shutil.which("kubectl")
        if not kubectl:
            raise Failure("kubectl was not found: this command forwards a port by `kubectl port-forward`.")
        words = [kubectl, *self._cluster.options, "--namespace", self.target.namespace, "port-forward"]
        ports = f"{self._local_port or ''}:{self.target.port}"
        return [*words, "--address", LOCALHOST, f"pod/{self.target.pod}", ports]

    def _end(self) -> None:
        if process := self._process:
            process.terminate()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        if self._errors:
            self._errors.close()
