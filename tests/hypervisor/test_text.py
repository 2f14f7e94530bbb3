"""libvirt's messages are shown on one safe line of bounded length."""

from __future__ import annotations

import libvirt
import pytest

from controller.hypervisor.text import LIMIT_BYTES, error_text


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a\x1b[31mred\r\ntext\x00", "ared text\ufffd"),
        ("x: 2026-01-01T00:00:11.123456Z qemu-system-x86_64: no disk", "x: qemu-system-x86_64: no disk"),
        ("東" * 1000, "東" * 1000),
        ("d" * 5000, "d" * (LIMIT_BYTES - 3) + "…"),
        ("", "no message"),
    ],
    ids=["unsafe", "log time", "wide characters", "long", "none"],
)
def test_the_message_of_an_error(monkeypatch: pytest.MonkeyPatch, message: str, shown: str) -> None:
    monkeypatch.setattr(libvirt.libvirtError, "get_error_message", lambda _: message)
    assert error_text(libvirt.libvirtError("no message")) == shown
