"""TLS of gRPC and REST: certificates from files, for those who listen and those who connect.

All files are PEM. A certificate authority given to a listener makes it ask for certificates (mutual TLS).
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Tls:
    """One side's certificate with its key, and whose certificates it takes from the other side; names of files."""

    cert: str
    key: str
    ca: str = ""

    @classmethod
    def of(cls, cert: str, key: str, ca: str, *, prefix: str = "tls") -> "Tls | None":
        """None where no file is named. Raises ConfigError naming the option at fault, which begins with `prefix`."""
        if not (cert or key or ca):
            return None
        for name, value in (("cert", cert), ("key", key)):
            if not value:
                raise ConfigError(f"TLS needs a certificate and its key: --{prefix}-{name} is missing", field=name)
        tls = cls(cert, key, ca)
        try:
            tls.context()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use {cert}, {key}{' or ' + ca if ca else ''}: {error}", field="cert") from error
        return tls

    @property
    def is_mutual(self) -> bool:
        return bool(self.ca)

    def context(self) -> ssl.SSLContext:
        """For a server of ours that is not gRPC; shows whether the files fit together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert, self.key)
        if self.ca:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def listens(self) -> grpc.ServerCredentials:
        pair = Path(self.key).read_bytes(), Path(self.cert).read_bytes()
        ca = Path(self.ca).read_bytes() if self.ca else None
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=bool(ca))

    def connects(self) -> grpc.ChannelCredentials:
        """Trusts `ca` alone, or where there is none, whom the system trusts."""
        ca = Path(self.ca).read_bytes() if self.ca else None
        return grpc.ssl_channel_credentials(ca, Path(self.key).read_bytes(), Path(self.cert).read_bytes())
