"""Starts that are slow or hang: libvirt's hook script waits while a file exists."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOOK = """\
#!/bin/sh
[ "$2" = prepare ] || exit 0
cd /etc/libvirt/hooks || exit 0
[ -e "slow/all" ] || [ -e "slow/$1" ] || exit 0
: > "waiting/$1"
echo "$1" >> waited
while [ -e "slow/all" ] || [ -e "slow/$1" ]; do sleep 0.2; done
rm -f "waiting/$1"
"""


class Starts:
    """The hook script of a libvirtd of the lab. Any thread may use it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the folder of the libvirtd, which must be a system libvirtd."""
        self._folder = folder / "etc/hooks"

    def install(self) -> None:
        """Write the hook; libvirtd checks for a hook only when it starts."""
        for name in ("slow", "waiting"):
            (self._folder / name).mkdir(parents=True)
        hook = self._folder / "qemu"
        hook.write_text(HOOK)
        hook.chmod(0o755)

    @contextmanager
    def slow(self, domain: str = "all") -> Iterator[None]:
        """Make the starts of a domain, or of all domains, wait until this is over."""
        file = self._folder / "slow" / domain
        file.touch()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    def waiting(self) -> set[str]:
        """The domains whose start waits now."""
        return {file.name for file in (self._folder / "waiting").iterdir()}

    def waited(self) -> int:
        """How many starts have waited until now."""
        log = self._folder / "waited"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def forget(self) -> None:
        """Forget all waiting starts, because the node has lost power."""
        shutil.rmtree(self._folder / "waiting")
        (self._folder / "waiting").mkdir()
