"""The workflows run make targets that exist, and nothing else."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from release import PROJECT
from release.build import DIST

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
TARGETS = set(re.findall(r"^([a-z0-9-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

CI, RELEASE, WEEKLY = (ROOT / ".github" / "workflows" / f"{name}.yml" for name in ("ci", "release", "weekly"))

Json = dict[Any, Any]


def _read(workflow: Path) -> Json:
    read: Json = yaml.safe_load(workflow.read_text())
    return read


def _jobs(workflow: Path) -> dict[str, Json]:
    jobs: dict[str, Json] = _read(workflow)["jobs"]
    return jobs


JOBS = [pytest.param(file, name, id=f"{file.stem}-{name}") for file in WORKFLOWS for name in _jobs(file)]


def _runs(job: Json) -> list[str]:
    """The commands of a job, each as often as its matrix has targets."""
    commands = [step["run"] for step in job["steps"] if "run" in step]
    targets = job.get("strategy", {}).get("matrix", {}).get("target", [""])
    return [command.replace("${{ matrix.target }}", target) for target in targets for command in commands]


def _used(job: Json, action: str) -> list[Json]:
    return [step.get("with", {}) for step in job["steps"] if step.get("uses") == action]


def test_there_is_one_for_each_change_one_for_each_week_and_one_for_a_release() -> None:
    assert [workflow.name for workflow in WORKFLOWS] == ["ci.yml", "release.yml", "weekly.yml"]
    # YAML reads `on` as a boolean.
    assert set(_read(CI)[True]) == {"push", "pull_request"}
    assert _read(RELEASE)[True] == {"push": {"tags": ["v*"]}}
    assert set(_read(WEEKLY)[True]) == {"schedule", "workflow_dispatch"}


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_each_step_is_a_make_target_the_checkout_or_an_artifact(workflow: Path, job: str) -> None:
    runs = _runs(_jobs(workflow)[job])
    assert runs
    assert [line for line in runs if not re.fullmatch("make [a-z0-9-]+", line)] == []
    assert {line.removeprefix("make ") for line in runs} <= TARGETS
    used = {step["uses"] for step in _jobs(workflow)[job]["steps"] if "run" not in step}
    assert used <= {"actions/checkout@v4", "actions/upload-artifact@v4", "actions/download-artifact@v4"}


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_a_job_can_write_only_if_it_publishes_and_has_a_time_limit(workflow: Path, job: str) -> None:
    assert _read(workflow)["permissions"] == {"contents": "read"}
    it = _jobs(workflow)[job]
    publishes = "make publish" in _runs(it)
    assert it.get("permissions") == ({"contents": "write"} if publishes else None)
    # The forge ends a job after six hours.
    assert it["timeout-minutes"] < 360
    assert [checkout["persist-credentials"] for checkout in _used(it, "actions/checkout@v4")] == [False]


def test_what_is_published_was_built_by_a_job_that_cannot_write_and_after_all_tests() -> None:
    jobs = _jobs(RELEASE)
    assert {name: _runs(job) for name, job in jobs.items()} == {
        "test": ["make test", "make page-test"],
        "e2e": ["make e2e-full"],
        "build": ["make release-check", "make dist-check"],
        # The first step installs what the second needs, and has no token.
        "publish": ["make release-check", "make publish"],
    }
    assert set(jobs["publish"]["needs"]) == jobs.keys() - {"publish"}
    (uploaded,) = _used(jobs["build"], "actions/upload-artifact@v4")
    (downloaded,) = _used(jobs["publish"], "actions/download-artifact@v4")
    assert uploaded == downloaded | {"if-no-files-found": "error"}
    assert ROOT / uploaded["path"] == DIST
    expression = "${{ github.token }}"
    assert [step["env"] for job in jobs.values() for step in job["steps"] if "env" in step] == [
        {"GH_TOKEN": expression, "GH_REPO": "${{ github.repository }}"}
    ]
    assert jobs["publish"]["steps"][-1]["env"]["GH_TOKEN"] == expression
    assert RELEASE.read_text().count("github.token") == 1


def test_what_takes_too_long_for_each_change_runs_each_week() -> None:
    (job,) = _jobs(WEEKLY).values()
    weekly = {"page-test", "gitops", "versions", "pythons", "debian13", "e2e-full", "test-long"}
    assert set(_runs(job)) == {f"make {target}" for target in weekly}
    assert job["strategy"]["fail-fast"] is False


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_git_accepts_the_workspace_which_belongs_to_another_user(workflow: Path) -> None:
    read = _read(workflow)
    assert all("container" in job for job in read["jobs"].values())
    name = PROJECT.rpartition("/")[2]
    assert read["env"] == {"GIT_CONFIG_SYSTEM": f"/__w/{name}/{name}/.ci/gitconfig"}


def test_with_the_configuration_of_the_workflows_git_reads_and_clones_what_others_own(tmp_path: Path) -> None:
    repository, home = tmp_path / "repository", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "init", "--quiet", repository], check=True)
    # Git has this variable for its own tests.
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    status = ["git", "-C", str(repository), "status"]
    refused = subprocess.run(status, env=env, check=False, capture_output=True, text=True)
    assert "detected dubious ownership" in refused.stderr
    env["GIT_CONFIG_SYSTEM"] = str(ROOT / ".ci" / "gitconfig")
    subprocess.run(status, env=env, check=True)
    # `make dist-check` clones the workspace. The Git at the other end of a clone does not get all variables.
    subprocess.run(["git", "clone", "--quiet", repository, tmp_path / "clone"], env=env, check=True)
