"""Redis, the cache of Argo CD: Debian's, installed or unpacked."""

import os
import shutil
from pathlib import Path

from lab import LabError
from lab.gomodule import CACHE
from lab.processes import Process

UNPACKED = CACHE / "redis-server"
"""Where the set-up unpacks Debian's packages: installing them would start a service on the machine."""


class Redis(Process):
    """A redis-server that listens on a Unix socket in a folder and stores nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        super().__init__(
            "redis-server",
            [_program(), "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", folder],
            log=folder / "redis-server.log",
            env=os.environ | {"LD_LIBRARY_PATH": str(UNPACKED / "usr/lib/x86_64-linux-gnu")},
        )

    def start(self) -> None:
        """Start it; `ready` tells when it listens."""
        self.socket.unlink(missing_ok=True)
        super().start()

    def ready(self) -> bool:
        """Whether it listens."""
        return self.socket.exists()


def _program() -> Path:
    installed = shutil.which("redis-server")
    program = Path(installed) if installed else UNPACKED / "usr/bin/redis-server"
    if not program.exists():
        raise LabError(f"redis-server is not installed, and not unpacked in {UNPACKED}: run `make gitops-setup`.")
    return program
