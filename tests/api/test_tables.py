"""Rows of a Table: the columns by name, whatever their order, and a clear error when one is missing."""

from typing import Any

import pytest

from controller.api.tables import rows


def table(*columns: str, cells: tuple[object, ...] = ()) -> dict[str, Any]:
    found = [{"cells": list(cells), "object": None}] if cells else []
    return {"kind": "Table", "columnDefinitions": [{"name": name} for name in columns], "rows": found}


def test_the_columns_are_found_by_name() -> None:
    assert list(rows(table("Name", "Node", "UUID", cells=("web", "a", "u")), ["UUID", "Node"])) == [("u", "a")]


@pytest.mark.parametrize(("cell", "text"), [(None, ""), ("a", "a"), (7, "7")])
def test_a_cell_is_text(cell: object, text: str) -> None:
    assert list(rows(table("Node", "Name", cells=(cell, "web")), ["Node"])) == [(text,)]


def test_a_table_without_rows_has_none() -> None:
    assert list(rows(table("Node") | {"rows": []}, ["Node"])) == []


@pytest.mark.parametrize("answer", [{}, {"kind": "VirtualMachineList", "items": []}, table("Name")])
def test_an_answer_without_the_columns_is_an_error(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no Table with the columns Node, UUID"):
        list(rows(answer, ["Node", "UUID"]))
