"""A real Prometheus, and promtool: those of the machine, or those of Debian that `make prometheus` has unpacked."""

import http
import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from lab import LabError, web
from lab.binaries import CACHE
from lab.processes import Process

UNPACKED = tuple(CACHE / package / "usr" / "bin" for package in ("prometheus", "promtool"))
READY_TIMEOUT_S = 60
QUERY_TIMEOUT_S = 30

Json = dict[str, Any]


def program(name: str) -> Path:
    """The path of `prometheus` or `promtool`. LabError if it is neither on the search path nor in the cache."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, UNPACKED)))
    if not found:
        raise LabError(f"{name} was not found: run `make prometheus`.")
    return Path(found)


def promtool(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run promtool in a folder. The caller looks at its exit code."""
    return subprocess.run([program("promtool"), *args], cwd=cwd, capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A process that is scraped: its port on 127.0.0.1, the name of its job, and the labels of its series."""

    job: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)


class Prometheus:
    """A Prometheus in a folder, which scrapes its targets every second; use it as a context manager."""

    def __init__(self, folder: Path, targets: Sequence[Target], rules: Path) -> None:
        self.folder = folder
        self._targets, self._rules = targets, rules
        self._process = Process("Prometheus", [], log=folder / "prometheus.log")
        self._port = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config()))
        self._process.command = [
            str(program("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        self._process.start()
        try:
            self._process.wait_until(self._ready, timeout_s=READY_TIMEOUT_S)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def query(self, expression: str) -> list[Json]:
        """The series that the expression returns now. LabError if Prometheus rejects it."""
        found: list[Json] = self._ask(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return found

    def rules(self) -> list[Json]:
        """All rules with their health and, for alerts, their state."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _config(self) -> Json:
        jobs = [
            {
                "job_name": job,
                "honor_labels": True,
                "static_configs": [
                    {"targets": [f"127.0.0.1:{one.port}"], "labels": dict(one.labels)}
                    for one in self._targets
                    if one.job == job
                ],
            }
            for job in dict.fromkeys(target.job for target in self._targets)
        ]
        return {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._rules)],
            "scrape_configs": jobs,
        }

    def _ready(self) -> bool:
        # It chooses a free port and logs it: no other process can take the port in between.
        told = re.findall(r"Listening on.* address=127\.0\.0\.1:(\d+)", self._process.log.read_text())
        if not told:
            return False
        self._port = int(told[-1])
        try:
            return web.get(self._port, "/-/ready")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def _ask(self, what: str) -> Json:
        status, body = web.get(self._port, f"/api/v1/{what}", timeout_s=QUERY_TIMEOUT_S)
        answer = json.loads(body)
        if status != http.HTTPStatus.OK or answer["status"] != "success":
            raise LabError(f"Prometheus answers {status}: {answer.get('error')}: {urllib.parse.unquote_plus(what)}")
        found: Json = answer["data"]
        return found
