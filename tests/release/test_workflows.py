"""The workflows run make targets that exist, and nothing else."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from release import PROJECT

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
TARGETS = set(re.findall(r"^([a-z0-9-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

Json = dict[Any, Any]


def _read(workflow: Path) -> Json:
    read: Json = yaml.safe_load(workflow.read_text())
    return read


def _steps(workflow: Path) -> list[Json]:
    return [step for job in _read(workflow)["jobs"].values() for step in job["steps"]]


def test_there_is_one_for_each_change_and_one_for_a_release() -> None:
    assert [workflow.name for workflow in WORKFLOWS] == ["ci.yml", "release.yml"]
    assert "test" in TARGETS
    # YAML reads `on` as a boolean.
    assert set(_read(ROOT / ".github/workflows/ci.yml")[True]) == {"push", "pull_request"}
    assert _read(ROOT / ".github/workflows/release.yml")[True] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_each_step_is_a_make_target_or_the_checkout(workflow: Path) -> None:
    runs = [step["run"] for step in _steps(workflow) if "run" in step]
    assert runs
    assert [line for line in runs if not re.fullmatch("make [a-z0-9-]+", line)] == []
    assert {line.removeprefix("make ") for line in runs} <= TARGETS
    used = [step["uses"] for step in _steps(workflow) if "run" not in step]
    assert set(used) == {"actions/checkout@v4"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_may_write_only_where_it_publishes_and_has_a_time_limit(workflow: Path) -> None:
    read = _read(workflow)
    assert read["permissions"] == {"contents": "read"}
    for job in read["jobs"].values():
        publishes = {"run": "make publish"} in job["steps"]
        assert job.get("permissions") == ({"contents": "write"} if publishes else None)
        assert job["timeout-minutes"] <= 180


def test_a_release_is_published_last_and_only_after_its_checks() -> None:
    runs = [step["run"] for step in _steps(ROOT / ".github/workflows/release.yml") if "run" in step]
    assert runs == ["make release-check", "make test", "make dist-check", "make publish"]


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
    status = ["git", "-C", repository, "status"]
    refused = subprocess.run(status, env=env, check=False, capture_output=True, text=True)
    assert "detected dubious ownership" in refused.stderr
    env["GIT_CONFIG_SYSTEM"] = str(ROOT / ".ci" / "gitconfig")
    subprocess.run(status, env=env, check=True)
    # `make dist-check` clones the workspace. The Git at the other end of a clone does not get all variables.
    subprocess.run(["git", "clone", "--quiet", repository, tmp_path / "clone"], env=env, check=True)
