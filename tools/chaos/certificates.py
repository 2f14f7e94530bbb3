"""Client certificates that are valid for about a minute, and are renewed in time, as the kubelet renews its own."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import trustme

LIFE_S = 60.0
RENEWED_AFTER = 0.6
"""The fraction of its validity after which a certificate is renewed."""


class Certificates:
    """An authority in a folder, and one user's certificate, renewed by a thread; use it as a context manager.

    `pem` holds certificate and key; it is replaced atomically. `by_content` finds the file of every certificate that
    was issued, so that a relay can present the certificate that a client presented.
    """

    def __init__(self, folder: Path, user: str, life_s: float = LIFE_S) -> None:
        self._life_s = life_s
        self._folder = folder.resolve()
        self._user = user
        self.ca = self._folder / "ca.crt"
        self.pem = self._folder / "client.pem"
        self.ended = 0
        """How many certificates have expired, each after its renewal."""
        self._ends: list[datetime] = []
        self._issued: dict[bytes, Path] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="certificates", daemon=True)
        self._authority = trustme.CA()
        self._folder.mkdir(parents=True, mode=0o700)
        self._authority.cert_pem.write_to_path(self.ca)

    def __enter__(self) -> Self:
        self.issue()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def by_content(self, der: bytes) -> Path | None:
        """The file of a certificate that was issued here."""
        return self._issued.get(der)

    def issue(self) -> None:
        """Replace the certificate by one whose validity ends `life_s` from now."""
        end = datetime.now(UTC) + timedelta(seconds=self._life_s)
        # Go rejects a certificate whose list of hosts is empty, also for a client.
        issued = self._authority.issue_cert(
            "client.chaos", common_name=self._user, organization_name="system:masters", not_after=end
        )
        pem = self._folder / f"client-{len(self._issued)}.pem"
        pem.touch(0o600)
        issued.private_key_and_cert_chain_pem.write_to_path(pem)
        self._issued[ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())] = pem
        self._ends.append(end)
        partial = self.pem.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.hardlink_to(pem)
        partial.replace(self.pem)

    def _renew(self) -> None:
        while not self._stopping.wait(RENEWED_AFTER * self._life_s):
            self.issue()
            self.ended = sum(end < datetime.now(UTC) for end in self._ends)
