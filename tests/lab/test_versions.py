"""`make versions`: what it runs exists, its table counts what ran, and docs/install.md has the same versions."""

import re
from pathlib import Path

import pytest

from lab import LabError, gomodule
from lab.binaries import MODULE
from versions import modules, plan, table
from versions.plan import AREAS, TESTS, Pair
from versions.run import counted
from versions.table import Count, Row

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.integration.test_crd" name="a"/>
<testcase classname="tests.integration.test_crd" name="b"><failure message="no"/></testcase>
<testcase classname="tests.contract.test_api" name="c"><error message="no fixture"/></testcase>
<testcase classname="tests.integration.test_check" name="d"/>
<testcase classname="tests.integration.test_check.TestOfAClass" name="e"/>
</testsuite></testsuites>"""


def row(pair: Pair, **counts: Count) -> Row:
    return Row(pair, f"{pair.server}.1", f"{pair.kubectl}.1", counts, 61)


def test_every_file_of_the_plan_exists_and_is_in_one_area() -> None:
    files = [file for area in AREAS.values() for file in area]
    assert [file for file in files if not (TESTS / file).is_file()] == []
    assert len(files) == len(set(files))


def test_each_server_is_tested_and_the_oldest_and_the_newest_with_the_kubectl_of_the_other() -> None:
    versions = list(modules.known())
    oldest, newest = versions[0], versions[-1]
    assert (oldest, "1.35" in versions) == ("1.32", True)
    assert [int(version.removeprefix("1.")) for version in versions] == list(range(32, 32 + len(versions)))
    assert {Pair(version, version) for version in versions} <= set(plan.pairs())
    assert {Pair(oldest, newest), Pair(newest, oldest)} <= set(plan.pairs())


def test_every_documented_row_is_of_these_versions_and_has_passed() -> None:
    said = {minor: module.version.removeprefix("v") for minor, module in modules.known().items()}
    rows = [
        Row(pair, said[pair.server], said[pair.kubectl], dict.fromkeys(pair.areas, Count(1)), 0)
        for pair in plan.pairs()
    ]
    assert set(table.documented(table.DOCUMENT.read_text()).splitlines()) <= set(table.for_document(rows).splitlines())


@pytest.mark.parametrize("version", modules.known())
def test_every_module_requires_one_version_of_kubernetes(version: str) -> None:
    module = modules.known()[version]
    file = (module.folder / "go.mod").read_text()
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", file, re.MULTILINE)
    assert len(replaced) > 25
    staging = module.version.replace("v1.", "v0.")
    assert [line for line in replaced if line[0] != line[1] or line[2] != staging] == []


def test_the_other_modules_have_the_sources_of_the_first() -> None:
    for module in modules.known().values():
        if module.folder != MODULE:
            sources = sorted(module.folder.glob("*.go"))
            assert {file.name for file in sources} == set(modules.SOURCES)
            assert [file.resolve() for file in sources] == [MODULE / file.name for file in sources]


def test_a_folder_has_the_programs_of_the_versions_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = tmp_path / "chosen" / "etcd"
    etcd.parent.mkdir()
    etcd.write_text("#!/bin/sh\n")
    etcd.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(etcd.parent))
    monkeypatch.setattr(modules, "CACHE", tmp_path)
    monkeypatch.setattr(gomodule, "CACHE", tmp_path)
    for module in modules.known().values():
        module.commands.mkdir()
        for command in ("kube-apiserver", "kubectl"):
            (module.commands / command).write_text(module.version)
    folder = modules.assets("1.32", "1.36")
    assert (folder / "etcd").resolve() == etcd
    assert (folder / "kube-apiserver").read_text() == modules.known()["1.32"].version
    assert (folder / "kubectl").read_text() == modules.known()["1.36"].version
    assert modules.assets("1.32", "1.36") == folder
    assert modules.assets("1.36", "1.32") != folder


def test_an_unknown_version_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"^1\.31 is none of the versions 1\.32, .*1\.35"):
        modules.assets("1.31", "1.35")
    with pytest.raises(LabError, match=r"^1\.36 is not a version such as 1\.35\.4\.$"):
        modules.add("1.36")
    with pytest.raises(LabError, match=f"^1.35.9 is built from {MODULE}: change the version there\\.$"):
        modules.add("1.35.9")


def test_the_report_of_pytest_is_counted_by_area() -> None:
    assert counted(REPORT, Pair("1.32", "1.36")) == {"definitions": Count(3, 2), "commands": Count(2)}


def test_an_area_in_which_nothing_ran_has_not_passed() -> None:
    pair = Pair("1.32", "1.36")
    assert row(pair, definitions=Count(3), commands=Count(2)).passed
    assert not row(pair, definitions=Count(3, 1), commands=Count(2)).passed
    assert not row(pair, definitions=Count(3), commands=Count()).passed


def test_the_tables_show_what_passed_what_failed_and_what_did_not_run() -> None:
    rows = [row(Pair("1.32", "1.36"), definitions=Count(3, 1), commands=Count(2))]
    header, line = table.for_terminal(rows).splitlines()
    assert header.split() == [
        "KUBE-APISERVER",
        "KUBECTL",
        "DEFINITIONS",
        "RIGHTS",
        "AGENT",
        "MANAGER",
        "COMMANDS",
        "SECONDS",
    ]
    assert re.split(r" {2,}", line) == ["1.32.1", "1.36.1", "1 of 3 failed", "–", "–", "–", "2 passed", "61"]
    assert table.for_document(rows).splitlines() == [
        "| kube-apiserver | kubectl | definitions | rights | agent | manager | commands |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 1.32.1 | 1.36.1 | failed | – | – | – | passed |",
    ]


def test_a_table_replaces_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "install.md"
    document.write_text(f"before\n\n{table.BEGIN}| old |\n| --- |\n\nafter\n")
    monkeypatch.setattr(table, "DOCUMENT", document)
    rows = [row(Pair("1.32", "1.32"), **{area: Count(1) for area in AREAS})]
    table.write(rows)
    assert document.read_text() == f"before\n\n{table.BEGIN}{table.for_document(rows)}\nafter\n"
    assert table.documented(document.read_text()) == table.for_document(rows)
