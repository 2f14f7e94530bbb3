"""The address of the page says what is shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.page.query import LAST_PAGE, LONGEST, Query, Sort, parse_query

NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-&=#%+ü ", max_size=30).map(str.strip)


@settings(derandomize=True, database=None)
@given(st.builds(Query, node=NAMES, namespace=NAMES, reason=NAMES, text=NAMES, page=st.integers(1, LAST_PAGE)))
def test_an_address_leads_to_the_query_that_it_was_made_of(query: Query) -> None:
    assert parse_query(query.address().partition("?")[2]) == query


def test_what_has_its_default_is_not_in_the_address() -> None:
    assert Query().address() == "./"
    assert Query(drift=True, sort=Sort.NEWEST, hosts_page=2).address() == "./?drift=1&sort=newest&hosts_page=2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "page=0",
        "page=-1",
        "page=1e9",
        "page=99999999999999999999",
        "page=000000001" + "9" * 5000,
        "page=%D9%A3",  # an Arabic digit
        "sort=random",
        "nothing=1",
        "=&&=",
        "&".join(f"text={number}" for number in range(50)),
    ],
)
def test_what_cannot_be_read_has_its_default(text: str) -> None:
    assert parse_query(text) == Query()


def test_long_and_unprintable_values_are_cut_and_cleaned() -> None:
    assert parse_query(f"node={'x' * 5000}").node == "x" * LONGEST
    assert parse_query("text=a%1b[31mb%00").text == "ab\N{REPLACEMENT CHARACTER}"


def test_another_filter_begins_at_the_first_page() -> None:
    assert Query(page=4, hosts_page=2).changed(reason="Held") == Query(reason="Held", hosts_page=2)
    assert Query(page=4).changed(page=5) == Query(page=5)
    assert Query(page=4).changed(hosts_page=2) == Query(page=4, hosts_page=2)
