"""TLS of gRPC and REST: certificates from files, for those who listen and those who connect.

All files are PEM. A certificate authority given to a listener makes it ask for certificates (mutual TLS). Files that
change are read again: connections made from then on see the new certificate, those that are open go on. While files
are half-written, or do not fit together, the certificate before them holds.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from engine.errors import ConfigError
from engine.watched_file import WatchedFile


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the files held at one moment, checked to fit together."""

    cert: bytes
    key: bytes
    ca: bytes | None
    context: ssl.SSLContext


class Tls:
    """One side's certificate with its key, and whose certificates it takes from the other side; names of files."""

    def __init__(self, cert: str, key: str, ca: str = "") -> None:
        """Raises ConfigError for files that cannot be used."""
        self._cert, self._key, self._ca = Path(cert), Path(key), Path(ca) if ca else None
        beside = [self._key, *([self._ca] if self._ca else [])]
        self._files = WatchedFile(self._cert, lambda _: self._load(), *beside)

    @classmethod
    def of(cls, cert: str, key: str, ca: str, *, prefix: str = "tls") -> "Tls | None":
        """None where no file is named. Raises ConfigError naming the option at fault, which begins with `prefix`."""
        if not (cert or key or ca):
            return None
        for name, value in (("cert", cert), ("key", key)):
            if not value:
                raise ConfigError(f"TLS needs a certificate and its key: --{prefix}-{name} is missing", field=name)
        return cls(cert, key, ca)

    @property
    def is_mutual(self) -> bool:
        return self._ca is not None

    def context(self) -> ssl.SSLContext:
        """For a server of ours that is not gRPC."""
        context = self._files.content.context

        def choose(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
            # OpenSSL calls this in every handshake, before it looks at a certificate.
            connection.context = self._files.content.context

        context.sni_callback = choose
        return context

    def listens(self) -> grpc.ServerCredentials:
        told = self._files.content

        def newer() -> grpc.ServerCertificateConfiguration | None:
            """Called in every handshake, by a thread of gRPC's; None: no change."""
            nonlocal told
            if (now := self._files.content) is told:
                return None
            told = now
            return _configuration(now)

        make = grpc.dynamic_ssl_server_credentials
        mutual = self.is_mutual
        return make(_configuration(told), newer, mutual)  # type: ignore[arg-type] # the stubs know of no None

    def connects(self) -> grpc.ChannelCredentials:
        """For the next channel. Trusts `ca` alone, or where there is none, whom gRPC trusts."""
        now = self._files.content
        return grpc.ssl_channel_credentials(now.ca, now.key, now.cert)

    def _load(self) -> _Loaded:
        try:
            before = self._read()
            context = self._server_context()
            if self._read() != before:
                raise ConfigError(f"{self._names} are being written", field="cert")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use {self._names}: {error}", field="cert") from error
        return _Loaded(*before, context)

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        return self._cert.read_bytes(), self._key.read_bytes(), self._ca.read_bytes() if self._ca else None

    def _server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._cert, self._key)
        if self._ca:
            context.load_verify_locations(self._ca)
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0  # who resumes a session is not asked again, and the list may have changed
            context.options |= ssl.OP_NO_TICKET
        return context

    @property
    def _names(self) -> str:
        return f"{self._cert}, {self._key}{f' or {self._ca}' if self._ca else ''}"


def listen(server: grpc.aio.Server, address: str, tls: Tls | None, *, field: str) -> int:
    """Bind `address` for gRPC, over TLS where there is `tls`; says the port.

    Raises ConfigError, naming the address and the option `field`, where it cannot be had.
    """
    try:
        return server.add_secure_port(address, tls.listens()) if tls else server.add_insecure_port(address)
    except RuntimeError as error:  # which does not say why
        message = f"cannot listen on {address}: the address is in use or not this machine's"
        raise ConfigError(message, field=field) from error


def _configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.cert)], loaded.ca)
