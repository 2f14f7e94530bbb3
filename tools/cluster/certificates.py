"""The certificate authority of one cluster or test, and the certificates that it issues."""

from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """A certificate authority in a folder; any thread may issue certificates, each under a different name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._ca = trustme.CA()

    def found(self) -> None:
        """Make the folder, with the authority's certificate in it."""
        self.folder.mkdir(parents=True, mode=0o700)
        self._ca.cert_pem.write_to_path(self.certificate)

    def issue(
        self, name: str, *hosts: str, common_name: str, group: str = "lab", not_after: datetime | None = None
    ) -> tuple[Path, Path]:
        """The files of a certificate and of its key, for clients and servers.

        The files are called `name`. `hosts` are the names and IP addresses of a server.
        """
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        # Go rejects a certificate whose list of hosts is empty, also for a client.
        issued = self._ca.issue_cert(
            *(hosts or (name,)), common_name=common_name, organization_name=group, not_after=not_after
        )
        issued.cert_chain_pems[0].write_to_path(certificate)
        key.touch(0o600)
        issued.private_key_pem.write_to_path(key)
        return certificate, key
