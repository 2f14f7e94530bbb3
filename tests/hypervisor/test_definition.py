"""What is read from the definition of a domain."""

import pytest

from controller.hypervisor.host import reboots_on_poweroff

RESTART, DESTROY = "<on_poweroff>restart</on_poweroff>", "<on_poweroff>destroy</on_poweroff>"
METADATA = [
    "",
    f'<metadata><t:job xmlns:t="urn:tool">{RESTART}</t:job></metadata>',
    f'<metadata><metadata xmlns="urn:tool">{RESTART}</metadata>{RESTART}</metadata>',
    "<metadata>\n    <a xmlns='urn:tool'/>\n  </metadata>",
]


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize(("setting", "reboots"), [(RESTART, True), (DESTROY, False), ("", False)])
def test_only_libvirts_own_setting_makes_a_shutdown_a_reboot(setting: str, *, reboots: bool, metadata: str) -> None:
    definition = f"<domain type='kvm'><name>web</name>{metadata}<os/>{setting}<on_reboot>restart</on_reboot></domain>"
    assert reboots_on_poweroff(definition) is reboots
