"""Certificates for tests, made by the openssl program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    cert: str
    key: str


class Authority:
    """Signs certificates for this machine's own addresses."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.cert, self._key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        _openssl("req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.cert)

    def issue(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificate:
        base = self._folder / f"{self._name}-{name}"
        made, request = Certificate(f"{base}.pem", f"{base}.key"), f"{base}.csr"
        told = f"subjectAltName={names}"
        _openssl("req", *KEY, "-subj", f"/CN={name}", "-addext", told, "-keyout", made.key, "-out", request)
        signer = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-copy_extensions", "copy")
        _openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-out", made.cert)
        return made


def _openssl(*arguments: str) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)
