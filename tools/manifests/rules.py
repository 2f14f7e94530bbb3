"""Renders deploy/prometheus/rules.yml from the PrometheusRules of the overlay: `python -m manifests.rules`.

A PrometheusRule is what the Prometheus Operator reads. The rendered file is for a Prometheus without the operator.
"""

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SOURCE = DEPLOY / "overlays" / "prometheus" / "rules.yaml"
RENDERED = DEPLOY / "prometheus" / "rules.yml"
HEAD = """\
# Rendered by `make manifests` from deploy/overlays/prometheus/rules.yaml: change it there.
# For a Prometheus without the operator: add this file to its `rule_files`.
"""

Json = dict[str, Any]


def groups() -> list[Json]:
    """The groups of rules of all PrometheusRules."""
    return [group for it in yaml.safe_load_all(SOURCE.read_text()) for group in it["spec"]["groups"]]


def every_rule() -> list[Json]:
    """The rules of all groups."""
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> list[Json]:
    """The alerting rules of all groups."""
    return [rule for rule in every_rule() if "alert" in rule]


def render() -> str:
    """The file as it is to be."""
    return HEAD + yaml.safe_dump({"groups": groups()}, sort_keys=False, width=120)


if __name__ == "__main__":
    RENDERED.parent.mkdir(exist_ok=True)
    RENDERED.write_text(render())
