"""What Argo CD shows for each reason, and what its actions change: the Lua of deploy/argocd, run as Argo CD runs it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaError, LuaRuntime

from controller.api.hypervisor import HypervisorReason
from controller.api.virtualmachine import Reason
from lab.binaries import find_assets
from manifests import argocd
from tests.deploy.reasons import host, host_table, is_unknown, table, vm

Json = dict[str, Any]
KINDS = argocd.CUSTOMIZATIONS / "virtsync.dev"
VM, HOST = KINDS / "VirtualMachine", KINDS / "Hypervisor"
HOLD = "hold.virtsync.dev/argocd"
# Argo CD runs Lua 5.1 with the base library and the tables. `os` has only time and date, and only by `require`.
SANDBOX = """
local time, date = os.time, os.date
string, math, io, debug, coroutine, utf8, os, package, python, dofile, loadfile =
    nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil
require = function(name) return name == "os" and { time = time, date = date } or error(name) end
-- Argo CD does not load the functions of strings, so strings have no methods either.
getmetatable("").__index = nil
"""


def run(script: Path, obj: Json) -> Json:
    """What a script returns for an object."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.execute(SANDBOX)
    lua.globals()["obj"] = lua.table_from(obj, recursive=True)
    returned: Json = _plain(lua.execute(script.read_text()))
    return returned


def _plain(value: Any) -> Any:
    if not hasattr(value, "items"):
        return value
    found = {key: _plain(item) for key, item in value.items()}
    return [*found.values()] if 1 in found else found


def act(name: str, obj: Json) -> Json:
    """The object that Argo CD makes of an action's result: it takes a map that is now empty for an unwanted change."""
    changed: Json = _cleaned(run(VM / "actions" / name / "action.lua", obj), obj)
    return changed


def _cleaned(new: Any, old: Any) -> Any:
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {key: _cleaned(value, old.get(key)) for key, value in new.items()} if new else old


def cases(file: Path, key: str) -> list[Json]:
    found: list[Json] = yaml.safe_load(file.read_text())[key]
    return found


def read(file: Path) -> Json:
    obj: Json = yaml.safe_load(file.read_text())
    return obj


@pytest.mark.parametrize(
    "text", ["('a'):upper()", "string.upper('a')", "os.time()", "io.open('a')", "require('io')", "debug.traceback()"]
)
def test_a_script_has_nothing_that_argo_cd_does_not_give_it(text: str, tmp_path: Path) -> None:
    script = tmp_path / "script.lua"
    script.write_text(f"return {text}")
    with pytest.raises(LuaError):
        run(script, {})


def test_the_documentation_lists_every_reason() -> None:
    assert table().keys() == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_the_health_that_is_documented(reason: Reason) -> None:
    assert run(VM / "health.lua", vm(reason)) == {"status": table()[reason], "message": f"{reason}: Why."}


@pytest.mark.parametrize("reason", Reason)
def test_a_spec_that_the_agent_has_not_observed_is_progressing_unless_the_state_is_unknown(reason: Reason) -> None:
    expected = "Degraded" if is_unknown(reason) else "Progressing"
    assert run(VM / "health.lua", vm(reason, generation=2))["status"] == expected


def test_the_documentation_lists_every_reason_of_a_host() -> None:
    assert {reason for kind in ("Ready", "Quiesced") for _, reason, _ in host_table(kind)} == set(HypervisorReason)


@pytest.mark.parametrize(("status", "reason", "health"), host_table("Ready"))
def test_each_reason_of_a_host_has_the_health_that_is_documented(status: str, reason: str, health: str) -> None:
    assert run(HOST / "health.lua", host(("Ready", status, reason)))["status"] == health


@pytest.mark.parametrize(("status", "reason", "health"), host_table("Quiesced"))
def test_a_host_in_maintenance_has_the_health_of_quiesced(status: str, reason: str, health: str) -> None:
    quiesced = ("Quiesced", status, reason)
    assert run(HOST / "health.lua", host(("Ready", "True", "Active"), quiesced))["status"] == health
    silent = ("Ready", "Unknown", "AgentUnreachable")
    assert run(HOST / "health.lua", host(silent, quiesced))["status"] == "Degraded"


@pytest.mark.parametrize("script", [VM / "health.lua", HOST / "health.lua"], ids=["VirtualMachine", "Hypervisor"])
@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": -1}, {"conditions": []}])
def test_an_object_without_a_report_is_progressing(script: Path, status: Json | None) -> None:
    obj: Json = {"metadata": {"name": "new", "generation": 1}} | ({} if status is None else {"status": status})
    assert run(script, obj)["status"] == "Progressing"


@pytest.mark.parametrize("kind", [VM, HOST], ids=["VirtualMachine", "Hypervisor"])
def test_the_health_tests_in_the_layout_of_argo_cd_hold(kind: Path) -> None:
    found = cases(kind / "health_test.yaml", "tests")
    assert {case["inputPath"] for case in found} == {f"testdata/{file.name}" for file in (kind / "testdata").iterdir()}
    for case in found:
        assert run(kind / "health.lua", read(kind / case["inputPath"])) == case["healthStatus"], case["inputPath"]


def test_the_actions_are_offered_when_they_change_something() -> None:
    folder = VM / "actions"
    for case in cases(folder / "action_test.yaml", "discoveryTests"):
        offered = run(folder / "discovery.lua", read(folder / case["inputPath"]))
        assert offered.keys() == {script.parent.name for script in folder.glob("*/action.lua")}
        assert [{"name": action["name"]} | offered[action["name"]] for action in case["result"]] == case["result"]
        assert len(case["result"]) == len(offered)


def test_each_action_changes_its_field_and_nothing_else() -> None:
    folder = VM / "actions"
    found = cases(folder / "action_test.yaml", "actionTests")
    assert [case["action"] for case in found] == ["restart", "start", "stop", "hold", "release"]
    for case in found:
        changed = act(case["action"], read(folder / case["inputPath"]))
        if case["action"] == "restart":
            # Argo CD's own tests ignore the time too, with custom_actions_test.go.patch.
            changed["spec"]["restartRequestTime"] = "0001-01-01T00:00:00Z"
        assert changed == read(folder / case["expectedOutputPath"]), case["action"]


def test_a_restart_is_requested_for_now() -> None:
    before = read(VM / "actions/testdata/running.yaml")
    changed = run(VM / "actions/restart/action.lua", before)
    requested = changed["spec"].pop("restartRequestTime")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", requested)
    assert changed == before


def test_a_start_sets_the_power_state_that_git_leaves_out() -> None:
    assert run(VM / "actions/start/action.lua", {"metadata": {}})["spec"] == {"powerState": "Running"}


def test_the_first_hold_creates_the_annotations() -> None:
    assert run(VM / "actions/hold/action.lua", {"metadata": {}})["metadata"]["annotations"].keys() == {HOLD}


def test_a_release_also_removes_the_only_annotation() -> None:
    free: Json = {"metadata": {"name": "web-1"}, "spec": {"powerState": "Running"}}
    assert act("release", act("hold", free)) == free


def test_the_config_map_is_as_its_sources() -> None:
    assert argocd.RENDERED.read_text() == argocd.render(), "run `make manifests`"


@pytest.mark.parametrize("namespace", [{"namespace": "argocd"}, {}], ids=["named", "set-by-kustomize"])
def test_the_component_adds_to_the_config_map_of_argo_cd(namespace: Json, tmp_path: Path) -> None:
    (tmp_path / "argocd").symlink_to(argocd.FOLDER)
    meta = {"name": "argocd-cm"} | namespace
    data = {"url": "https://cd.example.com"}
    ours = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    (tmp_path / "cm.yaml").write_text(yaml.safe_dump(ours))
    (tmp_path / "kustomization.yaml").write_text("namespace: argocd\nresources: [cm.yaml]\ncomponents: [argocd]\n")
    kubectl = str(find_assets() / "kubectl")
    kustomize = [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", str(tmp_path)]
    (merged,) = yaml.safe_load_all(subprocess.run(kustomize, check=True, capture_output=True, text=True).stdout)
    assert merged["data"] == argocd.data() | data
    assert merged["metadata"] == {"name": "argocd-cm", "namespace": "argocd"}
