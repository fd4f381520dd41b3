"""TLS from a client's side: whom the commands of `tandem` believe, and the certificate that they show."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from engine.errors import ConfigError

MAX_FLIGHTS = 8
"""More than any version of TLS needs."""
PEM: Any = {"exists": True, "dir_okay": False}

CaOption = Annotated[
    Path | None, typer.Option("--ca", help="PEM: who signed the server's certificate. Default: the system's.", **PEM)
]
CertOption = Annotated[Path | None, typer.Option("--cert", help="PEM, shown to a server that asks for one.", **PEM)]
KeyOption = Annotated[Path | None, typer.Option("--key", help="PEM: the certificate's key.", **PEM)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Names of PEM files. Without `ca`, those are believed whom the system believes."""

    ca: Path | None = None
    cert: Path | None = None
    """Shown to a server that asks for one, with its key."""
    key: Path | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "cert"
            raise ConfigError(f"--cert and --key go together: --{missing} is missing", field=f"--{missing}")

    def for_https(self, url: str) -> ssl.SSLContext | None:
        """None for http://. Raises ConfigError."""
        if url.startswith("https://"):
            return self.context()
        self._refuse_idle(url, "https://")
        return None

    def for_grpc(self, url: str) -> tuple[str, grpc.ChannelCredentials | None]:
        """The address in grpcs://host:port, grpc://host:port or host:port; without the s, no credentials. Raises
        ConfigError."""
        scheme, _, address = url.rstrip("/").rpartition("://")
        if scheme not in ("", "grpc", "grpcs"):
            raise ConfigError(f"{url} is neither grpc:// nor grpcs://", field="url")
        if scheme == "grpcs":
            return address, self.credentials()
        self._refuse_idle(url, "grpcs://")
        return address, None

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert and self.key:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path)
            raise ConfigError(f"cannot use {named}: {error}", field="--ca") from error
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises ConfigError."""
        self.context()  # gRPC says nothing of files that it cannot use
        # gRPC comes with a list of authorities of its own; the system's, to which an administrator adds, goes first.
        system = ssl.get_default_verify_paths().cafile
        ca = self.ca or (Path(system) if system else None)
        pair = (self.key.read_bytes(), self.cert.read_bytes()) if self.cert and self.key else (None, None)
        return grpc.ssl_channel_credentials(ca.read_bytes() if ca else None, *pair)

    def _refuse_idle(self, url: str, scheme: str) -> None:
        if self != Trust():
            message = f"--ca, --cert and --key are for TLS, and {url} does not begin with {scheme}"
            raise ConfigError(message, field="url")


def anchor(cert: Path, key: Path, host: str, candidates: Sequence[Path | None]) -> Path | None:
    """The first of `candidates` by which a client believes a server at `host` that has this certificate; None is the
    system's list, and is also the answer if none will do. Raises ConfigError.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use {cert}, {key}: {error}", field="--tls-cert") from error
    return next((ca for ca in candidates if _believes(Trust(ca=ca).context(), server, host)), None)


def _believes(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> bool:
    """Whether a handshake between the two comes to its end. No socket is made."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(MAX_FLIGHTS):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return not ends
