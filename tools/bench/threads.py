"""`python -m bench.threads agent ...` is `virtsync agent ...`, and shows the processor time of each of its threads.

Linux counts the processor time of each thread, but Python before 3.14 does not tell Linux the names of its threads.
After each SIGUSR1 this process writes the times by name, as JSON, into the file that the environment variable names.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path

FILE = "BENCH_THREADS"
"""The environment variable with the path of the file. The file is replaced atomically."""
SIGNAL = signal.SIGUSR1
IMPORTS = "imports"
"""The time until everything was imported that `virtsync agent` imports."""
ENDED = "ended"
"""The time of threads that have ended, and of threads that are not Python's."""
NS_PER_S = 1e9


def main() -> None:
    """Run virtsync. The imports below are those of `virtsync agent`, so that their time is known."""
    from controller import cli  # noqa: PLC0415
    from controller.agent import app  # noqa: F401, PLC0415

    imports_s = time.process_time()
    signal.signal(SIGNAL, lambda *_: _write(imports_s))
    cli.main(prog_name="virtsync")


def _write(imports_s: float) -> None:
    times = defaultdict(float, {IMPORTS: imports_s})
    for thread in threading.enumerate():
        fields = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()
        times[thread.name.rstrip("-0123456789")] += int(fields[0]) / NS_PER_S
    times[threading.main_thread().name] -= imports_s
    times[ENDED] = time.process_time() - sum(times.values())
    path = Path(os.environ[FILE])
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(times))
    partial.rename(path)


if __name__ == "__main__":
    main()
