"""A separate libvirtd, with QEMU guests that do what a test asks of them."""

from uuid import UUID, uuid4

from lab.daemon import Daemon
from lab.guest import Guest


class Libvirtd(Daemon):
    """A libvirtd in a folder, on which a test defines domains; use it as a context manager."""

    def define(
        self,
        name: str,
        *,
        uuid: UUID | None = None,
        disk: bool = False,
        on_poweroff: str = "destroy",
        on_crash: str = "destroy",
    ) -> Guest:
        """Define a domain (off) that runs the tiny guest, or redefine it, and return it.

        Without `uuid` a domain of this name keeps its UUID. `disk` adds a disk that is larger than the free space,
        until `Guest.free_disk`. `on_poweroff` and `on_crash` take libvirt's values (destroy, restart, preserve).
        """
        guest = Guest(self, name, uuid or self._uuid_of(name) or uuid4(), has_disk=disk)
        if disk:
            guest.make_disk()
        with self.connection() as connection:
            connection.defineXML(guest.domain_xml(disk=disk, on_poweroff=on_poweroff, on_crash=on_crash))
        return guest

    def _uuid_of(self, name: str) -> UUID | None:
        with self.connection() as connection:
            known = {domain.name(): UUID(domain.UUIDString()) for domain in connection.listAllDomains()}
        return known.get(name)
