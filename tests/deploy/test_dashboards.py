"""The dashboards of deploy/grafana: as their source, and about what the code serves.

tests/integration/test_prometheus.py asks a real Prometheus for each expression. No real Grafana is at hand.
"""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from lab.binaries import find_assets
from manifests import dashboards, metrics
from tests.deploy.test_rules import SUFFIXES, metrics_in

Json = dict[str, Any]
SHOWN = dashboards.every()
each = pytest.mark.parametrize("file", SHOWN)


@each
def test_the_file_is_as_its_source(file: str) -> None:
    assert (dashboards.FOLDER / file).read_text() == dashboards.render(SHOWN[file]), "run `make manifests`"


@each
def test_each_key_is_one_that_grafana_knows(file: str) -> None:
    shown = SHOWN[file]
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(shown))) == shown


@each
def test_no_panel_asks_for_a_metric_that_the_code_does_not_serve(file: str) -> None:
    rows = [row for registry in metrics.registries().values() for row in metrics.documented(registry)]
    served = {row.name for row in rows if row.type != "histogram"}
    served |= {row.name + suffix for row in rows if row.type == "histogram" for suffix in SUFFIXES}
    asked = {name for it in dashboards.expressions(SHOWN[file]) for name in metrics_in(it)}
    assert asked
    assert asked <= served


@each
def test_each_variable_that_is_used_can_be_chosen(file: str) -> None:
    shown = SHOWN[file]
    chosen = {variable["name"] for variable in shown["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(dashboards.expressions(shown)))) - {"__rate_interval"}
    assert used | {"datasource"} == chosen


@each
def test_each_panel_has_a_title_and_a_place_of_its_own(file: str) -> None:
    panels = SHOWN[file]["panels"]
    assert all(panel["title"] and panel["targets"] for panel in panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))


def test_links_lead_to_dashboards_that_there_are() -> None:
    uids = {shown["uid"] for shown in SHOWN.values()}
    linked = set(re.findall(r"/d/([\w-]+)", json.dumps([*SHOWN.values()])))
    assert linked
    assert linked <= uids


def test_the_sidecar_finds_a_config_map_with_all_of_them() -> None:
    kubectl = find_assets() / "kubectl"
    rendered = subprocess.run([kubectl, "kustomize", dashboards.FOLDER], capture_output=True, text=True, check=True)
    config_map = yaml.safe_load(rendered.stdout)
    assert (config_map["kind"], config_map["metadata"]["name"]) == ("ConfigMap", "virtsync-dashboards")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in config_map["data"].items()} == SHOWN
