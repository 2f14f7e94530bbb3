"""The authority of one cluster, and the certificates that it issues: made by openssl, good for as long as a test."""

import secrets
import subprocess
from pathlib import Path

DAYS = "30"
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Authority:
    """A certificate authority in a folder; any thread may have it issue certificates, by different names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"

    def found(self) -> None:
        """Make the folder, the authority's key and its certificate."""
        self.folder.mkdir(parents=True, mode=0o700)
        _openssl(
            "req", "-x509", *KEY, "-days", DAYS, "-subj", "/CN=lab", "-keyout", self._key, "-out", self.certificate
        )

    def issue(self, name: str, *, common_name: str, group: str = "lab", addresses: str = "") -> tuple[Path, Path]:
        """A certificate and its key, for client and server alike; `addresses` as openssl wants them: `IP:…,DNS:…`."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        lines = ["extendedKeyUsage=serverAuth,clientAuth", *([f"subjectAltName={addresses}"] if addresses else [])]
        extensions.write_text("\n".join(lines))
        _openssl("req", "-new", *KEY, "-subj", f"/O={group}/CN={common_name}", "-keyout", key, "-out", request)
        signing: list[str | Path] = [
            "-CA",
            self.certificate,
            "-CAkey",
            self._key,
            "-set_serial",
            f"0x{secrets.token_hex(16)}",
        ]
        _openssl("x509", "-req", "-days", DAYS, "-in", request, *signing, "-extfile", extensions, "-out", certificate)
        return certificate, key

    @property
    def _key(self) -> Path:
        return self.folder / "ca.key"


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
