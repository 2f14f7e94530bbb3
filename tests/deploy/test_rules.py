"""The rules of deploy/overlays/prometheus in promtool: each alert fires when it should, and not when it should not."""

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.agent.metrics import CHECKS as AGENT_CHECKS
from controller.manager.metrics import CHECKS as MANAGER_CHECKS
from lab.prometheus import promtool
from manifests import metrics, rules

Json = dict[str, Any]
TESTS = Path(__file__).with_name("rules_test.yaml")
RUNBOOKS = rules.DEPLOY.parent / "docs" / "runbooks"
ALERTS = {rule["alert"]: rule for rule in rules.alerts()}
RECORDS = {rule["record"] for group in rules.groups() for rule in group["rules"] if "record" in rule}
DRIFT = "VirtsyncVirtualMachineDrift"
SEVERITIES = {"critical", "warning", "info"}
SUFFIXES = ("_bucket", "_count", "_sum")
# Strings are matched first, so that no word in one is taken for a metric.
METRIC = re.compile(r'"[^"]*"|((?:virtsync|process|workqueue|controller_runtime)[_:][\w:]+)')


def unit_tests() -> list[Json]:
    found: list[Json] = yaml.safe_load(TESTS.read_text())["tests"]
    return found


def metrics_in(expression: str) -> set[str]:
    return {name for name in METRIC.findall(expression) if name}


def with_summaries_alone(groups: list[Json]) -> list[Json]:
    """The rules without the annotations that a test would have to repeat."""
    return [group | {"rules": [_with_summary_alone(rule) for rule in group["rules"]]} for group in groups]


def _with_summary_alone(rule: Json) -> Json:
    return rule | {"annotations": {"summary": rule["annotations"]["summary"]}} if "alert" in rule else dict(rule)


def judged_by_promtool(
    folder: Path, groups: list[Json], its: list[Json], **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run these unit tests on these rules, with the settings of `TESTS` except for the given ones."""
    tests = yaml.safe_load(TESTS.read_text()) | settings | {"tests": its}
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    return promtool("test", "rules", "tests.yml", cwd=folder)


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", rules.RENDERED, cwd=tmp_path)
    count = len(ALERTS) + len(RECORDS)
    assert (checked.returncode, f"{count} rules found" in checked.stdout) == (0, True), checked.stdout + checked.stderr


def test_promtool_accepts_the_scrape_jobs(tmp_path: Path) -> None:
    jobs = yaml.safe_load((rules.DEPLOY / "prometheus" / "scrape.yml").read_text())
    for job in jobs:
        # Debian builds its promtool without the discovery of Kubernetes.
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["virtsync-system"]}}]
    config = {"rule_files": [str(rules.RENDERED)], "scrape_configs": jobs}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    checked = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("interval", sorted({test["interval"] for test in unit_tests()}))
def test_each_alert_fires_and_does_not_fire_as_its_tests_say(tmp_path: Path, interval: str) -> None:
    """The rules are evaluated as often as there are samples: a day of minutes takes promtool long."""
    its = [test for test in unit_tests() if test["interval"] == interval]
    tested = judged_by_promtool(tmp_path, with_summaries_alone(rules.groups()), its, evaluation_interval=interval)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_rule_that_is_wrong_fails_its_test(tmp_path: Path) -> None:
    groups = with_summaries_alone(rules.groups())
    (drift,) = (rule for group in groups for rule in group["rules"] if rule.get("alert") == DRIFT)
    drift["expr"] = drift["expr"].replace("> 1800", "> 60")
    tested = judged_by_promtool(tmp_path, groups, [test for test in unit_tests() if DRIFT in test["name"]])
    assert (tested.returncode, DRIFT in tested.stdout + tested.stderr) == (1, True)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    expected = [
        one["exp_alerts"] for test in unit_tests() for one in test["alert_rule_test"] if one["alertname"] == alert
    ]
    assert any(expected)
    assert not all(expected)
    assert Counter(test["name"].split()[0] for test in unit_tests())[alert] > 0


def test_the_tests_are_about_alerts_that_there_are() -> None:
    assert {one["alertname"] for test in unit_tests() for one in test["alert_rule_test"]} == ALERTS.keys()
    for test in unit_tests():
        assert {one["alertname"] for one in test["alert_rule_test"]} == {test["name"].split()[0]}


def test_the_rules_without_the_operator_are_as_those_with_it() -> None:
    assert rules.RENDERED.read_text() == rules.render(), "run `make manifests`"


def test_no_rule_asks_for_a_metric_that_the_code_does_not_serve() -> None:
    rows = [row for registry in metrics.registries().values() for row in metrics.documented(registry)]
    served = {row.name for row in rows if row.type != "histogram"}
    served |= {row.name + suffix for row in rows if row.type == "histogram" for suffix in SUFFIXES}
    asked = {name for group in rules.groups() for rule in group["rules"] for name in metrics_in(rule["expr"])}
    assert asked <= served | RECORDS
    assert RECORDS - asked == {"virtsync:virtualmachines:sum"}  # this one is for dashboards
    # that the search finds any
    assert {"virtsync_drift_seconds", "virtsync_event_to_status_seconds_bucket"} <= asked


@pytest.mark.parametrize(
    ("group", "checks"), [("virtsync", AGENT_CHECKS), ("virtsync-manager", MANAGER_CHECKS)], ids=["agent", "manager"]
)
def test_each_check_has_one_alert_and_no_alert_names_another(group: str, checks: Sequence[str]) -> None:
    """Its name is in the matcher of one alert of this group that is about `virtsync_not_ready`."""
    expressions = [rule["expr"] for it in rules.groups() if it["name"] == group for rule in it["rules"]]
    matchers = [re.findall(r'virtsync_not_ready{check=~"(.+?)"}', expression) for expression in expressions]
    covered = Counter(check for found in matchers for names in found for check in names.split("|"))
    assert covered == Counter(checks)


@pytest.mark.parametrize("alert", ["VirtsyncAgentCannotAct", "VirtsyncManagerNotReady"])
def test_the_runbook_of_checks_has_each_check_of_its_alert(alert: str) -> None:
    (names,) = re.findall(r'check=~"(.+?)"', ALERTS[alert]["expr"])
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert Counter(re.findall(r"^\| `([\w-]+)` \| [A-Z]", page, re.MULTILINE)) == Counter(names.split("|"))


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
def test_each_alert_says_how_severe_it_is_and_where_its_runbook_is(alert: Json) -> None:
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"https://virtsync.dev/runbooks/{alert['alert']}/"


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_says_what_the_alert_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert re.findall(r"^#+ .*$", page, re.MULTILINE) == [
        f"# {alert}",
        "## What it means",
        "## What to look at",
        "## What to do",
    ]
    assert "```console\n" in page


def test_the_index_of_the_runbooks_has_each_with_its_severity() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \| .+ \|$", (RUNBOOKS / "README.md").read_text(), re.MULTILINE
    )
    assert {name: severity for name, _, severity in rows} == {
        name: rule["labels"]["severity"] for name, rule in ALERTS.items()
    }
    assert all(name == page for name, page, _ in rows)
