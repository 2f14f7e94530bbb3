"""Client certificates that last for a minute or so, and are renewed in time as the kubelet renews its own."""

import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

LIFE_S = 60.0
RENEWED_AFTER = 0.6
"""The part of its life after which a certificate is renewed."""
HOUR_S = 3600.0
CONFIG = """\
[ca]
default_ca = chaos
[chaos]
dir = {folder}
database = $dir/index.txt
rand_serial = yes
new_certs_dir = $dir
default_md = sha256
policy = any
x509_extensions = client
unique_subject = no
[any]
organizationName = supplied
commonName = supplied
[client]
extendedKeyUsage = clientAuth
"""


class Certificates:
    """An authority in a folder, and one user's certificate, renewed by a thread; use it as a context manager.

    `pem` holds certificate and key; it is exchanged as a whole. `by_content` finds the file of any certificate that was
    ever issued, so that a relay can show what it was shown.
    """

    def __init__(self, folder: Path, user: str, life_s: float = LIFE_S) -> None:
        self._life_s = life_s
        self._folder = folder.resolve()
        self._user = user
        self.ca = self._folder / "ca.crt"
        self.pem = self._folder / "client.pem"
        self.ended = 0
        """How many certificates have ended, each after it was renewed."""
        self._ends_s: list[float] = []
        self._issued: dict[bytes, Path] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="certificates", daemon=True)
        self._found()

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
        """Exchange the certificate for one that lasts from now."""
        now_s = time.time()
        number = len(self._issued)
        certificate, pem = self._folder / f"client-{number}.crt", self._folder / f"client-{number}.pem"
        dates = ["-startdate", _date(now_s - HOUR_S), "-enddate", _date(now_s + self._life_s)]
        config: list[str | Path] = ["-config", self._folder / "ca.cnf", "-cert", self.ca, "-keyfile", self._key("ca")]
        request: list[str | Path] = ["-in", self._folder / "client.csr", "-out", certificate]
        _openssl("ca", "-batch", "-notext", *config, *dates, *request)
        pem.touch(0o600)
        pem.write_text(certificate.read_text() + self._key("client").read_text())
        der = subprocess.run(
            ["openssl", "x509", "-in", certificate, "-outform", "DER"], capture_output=True, check=True
        ).stdout
        self._issued[der] = pem
        self._ends_s.append(now_s + self._life_s)
        partial = self.pem.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.hardlink_to(pem)
        partial.replace(self.pem)

    def _renew(self) -> None:
        while not self._stopping.wait(RENEWED_AFTER * self._life_s):
            self.issue()
            self.ended = sum(end_s < time.time() for end_s in self._ends_s)

    def _found(self) -> None:
        self._folder.mkdir(parents=True, mode=0o700)
        (self._folder / "index.txt").touch()
        (self._folder / "ca.cnf").write_text(CONFIG.format(folder=self._folder))
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
        _openssl("req", "-x509", *key, self._key("ca"), "-days", "2", "-subj", "/CN=chaos", "-out", self.ca)
        subject = f"/O=system:masters/CN={self._user}"
        _openssl("req", "-new", *key, self._key("client"), "-subj", subject, "-out", self._folder / "client.csr")

    def _key(self, name: str) -> Path:
        return self._folder / f"{name}.key"


def _date(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y%m%d%H%M%SZ}"


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
