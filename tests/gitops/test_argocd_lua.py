"""The Lua of deploy/argocd, run by Argo CD's own tests in its own engine, as for a pull request to its repository."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.virtualmachine import Reason
from gitops.argocd_tests import TESTS, run
from manifests import argocd
from tests.deploy.reasons import table, vm

Json = dict[str, Any]
KINDS = argocd.CUSTOMIZATIONS / "virtsync.dev"
PATCH = argocd.FOLDER / "custom_actions_test.go.patch"


def passed(output: str) -> list[str]:
    return re.findall(r"^ *--- PASS: (\S+)", output, re.MULTILINE)


@pytest.mark.timeout(600)
def test_argo_cds_own_tests_accept_the_customizations(tmp_path: Path) -> None:
    found = passed(run(argocd.CUSTOMIZATIONS, PATCH, tmp_path))
    assert set(TESTS) <= set(found)
    for kind in ("VirtualMachine", "Hypervisor"):
        cases = yaml.safe_load((KINDS / kind / "health_test.yaml").read_text())["tests"]
        ours = [name for name in found if name.startswith(f"TestLuaHealthScript/virtsync.dev/{kind}/")]
        assert len(ours) == len(cases)
    actions = yaml.safe_load((KINDS / "VirtualMachine/actions/action_test.yaml").read_text())
    for case in actions["actionTests"]:
        assert f"TestLuaResourceActionsScript/actions/{case['action']}/{case['inputPath']}" in found
    for case in actions["discoveryTests"]:
        assert f"TestLuaResourceActionsScript/discovery/{case['inputPath']}" in found


@pytest.mark.timeout(600)
def test_argo_cds_engine_gives_each_reason_the_documented_health(tmp_path: Path) -> None:
    customizations = tmp_path / "resource_customizations"
    folder = customizations / "virtsync.dev" / "VirtualMachine"
    shutil.copytree(argocd.CUSTOMIZATIONS, customizations)
    cases = [
        {
            "inputPath": f"testdata/of-{reason}.yaml",
            "healthStatus": {"status": table()[reason], "message": f"{reason}: Why."},
        }
        for reason in Reason
    ]
    (folder / "health_test.yaml").write_text(yaml.safe_dump({"tests": cases}))
    for reason in Reason:
        obj = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine"} | vm(reason.value)
        (folder / f"testdata/of-{reason}.yaml").write_text(yaml.safe_dump(obj))
    found = passed(run(customizations, PATCH, tmp_path))
    name = "TestLuaHealthScript/virtsync.dev/VirtualMachine/testdata"
    assert {f"{name}/of-{reason}.yaml" for reason in Reason} <= set(found)
