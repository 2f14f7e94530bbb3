"""Manifests as text: what is written reads back as the same, and a kustomization keeps what people wrote into it."""

import pytest
import yaml

from controller.kube.manifests import document, documents, kustomization, with_resources
from controller.runtime.errors import Rejected

MINE = """\
# Ours: ask team-a.
resources:
  # the router
  - ./db-1.yaml

  - web-1.yaml  # the shop
namespace: vms
"""


@pytest.mark.parametrize(
    "text", ["1e3", "y", "N", "on", "null", "~", "0x1f", "0o17", "1_0", "2026-1-1", "1.5", "", "no"]
)
def test_a_text_that_kubernetes_might_read_as_another_type_has_quotes(text: str) -> None:
    assert document({"name": text}) == f"name: '{text}'\n"


@pytest.mark.parametrize("text", ["web-1", "a.b", "e3", "11111111-1d52-48f3-8516-782e98ab3fa0", "1e3.yaml"])
def test_other_texts_have_none(text: str) -> None:
    assert document({"name": text}) == f"name: {text}\n"


def test_comments_are_above_the_object_and_in_its_last_field() -> None:
    text = document({"kind": "X", "spec": {"a": 1}}, above=["One.", "Two."], below=["b: 2"])
    assert text == "# One.\n# Two.\nkind: X\nspec:\n  a: 1\n  # b: 2\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "it is not valid YAML: line 2: "),
        ("{{ .Values.x }}", "it is not valid YAML: line 1: "),
        ("a: !secret x", "it is not valid YAML: line 1: could not determine a constructor"),
        ("a: 2026-99-99", "it is not valid YAML: "),
        ("\x00", "it is not valid YAML: "),
    ],
)
def test_what_is_not_yaml_is_told_in_one_line(text: str, why: str) -> None:
    with pytest.raises(Rejected) as refused:
        documents(text)
    assert str(refused.value).startswith(why)
    assert "\n" not in str(refused.value)


def test_a_new_kustomization_lists_its_resources() -> None:
    assert kustomization(["a.yaml", "1e3"]) == (
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- a.yaml\n- '1e3'\n"
    )


def test_new_resources_get_into_a_kustomization_that_people_edited() -> None:
    text = with_resources(MINE, ["zoo.yaml", "web-1.yaml", "db-1.yaml", "a.yaml", "infra.yaml"])
    assert (
        text
        == """\
# Ours: ask team-a.
resources:
  - a.yaml
  # the router
  - ./db-1.yaml

  - infra.yaml
  - web-1.yaml  # the shop
  - zoo.yaml
namespace: vms
"""
    )


@pytest.mark.parametrize("text", [MINE, "resources: [a.yaml, b.yaml]", "resources:\n- a.yaml/\n- b.yaml"])
def test_a_kustomization_that_lists_them_all_does_not_change(text: str) -> None:
    listed = [entry.strip("./") for entry in yaml.safe_load(text)["resources"]]
    assert with_resources(text, [one if one.endswith("yaml") else f"{one}yaml" for one in listed]) == text


def test_a_last_line_without_an_end_gets_one() -> None:
    assert with_resources("resources:\n- a", ["b"]) == "resources:\n- a\n- b\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no list of resources"),
        ("kind: Kustomization", "it has no list of resources"),
        ("resources: []", "it has no list of resources"),
        ("resources: [1]", "it has no list of resources"),
        ("- a", "it has no list of resources"),
        ("resources: [a]\n---\n", "it has no list of resources"),
        ("resources: [a]", "its resources are not a list with one entry on each line"),
        ("resources:\n- >\n  z\n  z", "its resources are not a list with one entry on each line"),
        ("{resources: [\n- a\n]}", "it is not valid YAML"),
    ],
)
def test_a_kustomization_of_another_form_is_refused(text: str, why: str) -> None:
    with pytest.raises(Rejected, match=f"^{why}"):
        with_resources(text, ["new.yaml"])
