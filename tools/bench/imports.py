"""The memory and time that each library of the agent takes to import: alone, and after the ones before it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from bench.parts import INSTALLED, step

LIBRARIES = (
    ("Python, with what most need", "asyncio, dataclasses, http.server, json, logging, ssl, threading, uuid"),
    ("libvirt-python, with libvirt's libraries", "libvirt"),
    ("prometheus-client", "prometheus_client"),
    ("structlog", "structlog"),
    ("tenacity", "tenacity"),
    ("click", "click"),
    (
        "kubernetes, with requests, oauthlib, pydantic",
        "kubernetes.client.api_client, kubernetes.config",
    ),
    ("kopf, with aiohttp", "kopf"),
    ("virtsync itself", "controller.agent.app, controller.cli"),
)
"""In import order; a shared dependency counts for the first library that imports it."""

# Prints the process's resources after each step: resident memory, the share of file pages, and CPU time.
SCRIPT = """
import json, re, sys, time
def told():
    status = open("/proc/self/status").read()
    sizes = [int(re.search(name + r":\\s+(\\d+)", status)[1]) / 1024 for name in ("VmRSS", "RssFile")]
    return [*sizes, time.process_time()]
steps = [told()]
for line in sys.argv[1:]:
    exec("import " + line)
    steps.append(told())
print(json.dumps(steps))
"""


def measure() -> list[dict[str, Any]]:
    """A row for each library."""
    with step("what each import costs"):
        in_order = _told(*(modules for _, modules in LIBRARIES))
        base = LIBRARIES[0][1]
        rows = []
        for number, (words, modules) in enumerate(LIBRARIES):
            alone = _told(base, modules)
            rows.append(
                {
                    "library": words,
                    "alone_mib": alone[-1][0] - alone[-2][0] if number else alone[1][0],
                    "more_mib": in_order[number + 1][0] - (in_order[number][0] if number else 0.0),
                    "of_files_mib": in_order[number + 1][1] - (in_order[number][1] if number else 0.0),
                    "cpu_ms": (in_order[number + 1][2] - (in_order[number][2] if number else 0.0)) * 1000,
                    "total_mib": in_order[number + 1][0],
                }
            )
    return rows


def _told(*lines: str) -> list[list[float]]:
    done = subprocess.run([INSTALLED, "-c", SCRIPT, *lines], capture_output=True, text=True, check=True)
    told: list[list[float]] = json.loads(done.stdout)
    return told
