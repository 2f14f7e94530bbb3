"""A separate polkit: a real D-Bus and a real polkitd, which read no rule and no group of this machine. Needs root."""

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Self

from lab import LabError
from lab.processes import Process

POLKITD = Path("/usr/lib/polkit-1/polkitd")
BUS = "dbus-daemon"
READY_LIMIT_S = 60
# A bus on which each process may do everything: polkitd decides, not the bus.
BUS_CONF = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
SEE_OUR_FILES = """
mount --bind "$0/rules.d" /etc/polkit-1/rules.d
mount --bind "$0/group" /etc/group
exec "$1"
"""


class Polkit:
    """D-Bus and polkitd in a folder, with the actions and the rules that packages bring; a context manager.

    The folder must be one that all users can enter. `members` are the users of the group `libvirt`, and `rules` the
    rules that an administrator has added, in JavaScript.
    """

    def __init__(self, folder: Path, *, members: Collection[str] = (), rules: str = "") -> None:
        self.folder = folder
        self.address = f"unix:path={folder}/bus"
        self._members, self._rules = members, rules
        conf = folder / "bus.conf"
        self._bus = Process("D-Bus", [BUS, "--nofork", f"--config-file={conf}"], log=folder / "bus.log")
        self._polkitd = Process(
            "polkitd",
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", SEE_OUR_FILES, folder, POLKITD],
            log=folder / "polkitd.log",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": self.address},
        )

    def __enter__(self) -> Self:
        if not POLKITD.exists() or not shutil.which(BUS):
            raise LabError(f"{POLKITD} or {BUS} was not found: run `make setup`.")
        (self.folder / "rules.d").mkdir(parents=True)
        (self.folder / "rules.d" / "10-administrator.rules").write_text(self._rules)
        line = rf"\g<1>{','.join(self._members)}"
        groups = re.sub(r"(?m)^(libvirt:[^:]*:\d+:).*$", line, Path("/etc/group").read_text())
        (self.folder / "group").write_text(groups)
        (self.folder / "bus.conf").write_text(BUS_CONF.format(address=self.address))
        self._bus.start()
        try:
            self._bus.wait_until((self.folder / "bus").exists, timeout_s=READY_LIMIT_S)
            self._polkitd.start()
            self._polkitd.wait_until(self._listens, timeout_s=READY_LIMIT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._polkitd.kill()
        self._bus.kill()

    def _listens(self) -> bool:
        return "Acquired the name org.freedesktop.PolicyKit1" in self._polkitd.log.read_text()
