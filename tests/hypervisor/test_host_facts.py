"""libvirt's numbers for versions, as people write them."""

import pytest

from controller.hypervisor.host_facts import version_text


@pytest.mark.parametrize(
    ("number", "text"), [(9_000_000, "9.0.0"), (10_010_001, "10.10.1"), (7_002_017, "7.2.17"), (2, "0.0.2"), (0, "")]
)
def test_a_version_is_three_numbers(number: int, text: str) -> None:
    assert version_text(number) == text
