"""Encryption of KV between hosts: CURVE (http://curvezmq.org), and the list of who may take part.

Every worker has a key pair of its own and the public keys of the others. A receiver lets in senders whose keys are on
the list; it says its own public key in its endpoint's address, behind a #, and a sender connects only if that is on
the list, too. Lists are read again when they change. Knows keys and files. Does not know frames.
"""

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from engine.errors import ConfigError
from engine.watched_file import WatchedFile
from kvtransfer.transport import Unreachable

log = logging.getLogger(__name__)

KEY_CHARS = 40
"""Of a key in Z85."""
DOMAIN = "tandem-kv"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """In Z85, as libzmq takes them."""

    public: bytes
    secret: bytes

    @classmethod
    def make(cls) -> "KeyPair":
        return cls(*zmq.curve_keypair())

    @classmethod
    def read(cls, path: Path) -> "KeyPair":
        """Of a file that only its owner may read. Raises ConfigError."""
        try:
            mode = path.stat().st_mode
            secret = path.read_text().strip().encode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the key {path}: {error}", field="kv_key") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"others may read the key {path}: chmod 600 it, or make another", field="kv_key")
        if not is_key(secret):
            raise ConfigError(f"{path} holds no secret key of {KEY_CHARS} characters in Z85", field="kv_key")
        return cls(zmq.curve_public(secret), secret)

    def write(self, path: Path) -> None:
        """For nobody else to read. Raises FileExistsError rather than lose another."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(self.secret + b"\n")


def is_key(text: bytes) -> bool:
    if len(text) != KEY_CHARS:
        return False
    try:
        return len(z85.decode(text)) == KEY_CHARS * 4 // 5
    except (KeyError, ValueError):
        return False


class Peers:
    """The public keys of a file: one a line, what follows it is a comment; lines that begin with # are."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when the file cannot be used."""
        self._file = WatchedFile(path, _read_keys)

    def __contains__(self, key: object) -> bool:
        return key in self._file.content


def _read_keys(path: Path) -> frozenset[bytes]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the keys of peers: {path}: {error}", field="kv_peers") from error
    keys = [line.split()[0].encode() for line in lines if line.strip() and not line.startswith("# ")]
    if wrong := next((key for key in keys if not is_key(key)), None):
        raise ConfigError(f"{path}: {wrong.decode()!r} is no public key", field="kv_peers")
    return frozenset(keys)


@dataclass(frozen=True, slots=True)
class Curve:
    """This worker's keys, and those of its peers."""

    keys: KeyPair
    peers: Peers

    @classmethod
    def of(cls, key: str, peers: str) -> "Curve | None":
        """From two files' names, both or none. Raises ConfigError."""
        if not key and not peers:
            return None
        if not (key and peers):
            missing = "kv_peers" if key else "kv_key"
            message = f"--kv-key and --kv-peers go together: --{missing.replace('_', '-')} is missing"
            raise ConfigError(message, field=missing)
        return cls(KeyPair.read(Path(key)), Peers(Path(peers)))

    def address(self, bound: str) -> str:
        """Where to connect, and whom to expect there."""
        return f"{bound}#{z85.decode(self.keys.public).hex()}"

    def listen(self, socket: zmq.Socket[bytes]) -> None:
        """Before it binds: take nobody whose key was not proven."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())

    def guard(self, context: zmq.Context[zmq.Socket[bytes]]) -> ThreadAuthenticator:
        """Who lets senders in, on a thread of its own; to be stopped before the context ends."""
        guard = ThreadAuthenticator(context)
        guard.start()
        guard.configure_curve_callback(domain=DOMAIN, credentials_provider=_Door(self.peers))
        return guard


class _Door:
    """In the form that the authenticator asks."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def callback(self, _domain: str, key: bytes) -> bool:
        if key in self._peers:
            return True
        log.warning("a sender of KV with the unknown public key %s was turned away", key.decode())
        return False


def secure(socket: zmq.Socket[bytes], address: str, curve: Curve | None) -> str:
    """Prepare a sender's socket for an endpoint's address; what to connect to. Raises Unreachable."""
    where, _, hexadecimal = address.partition("#")
    if bool(hexadecimal) != (curve is not None) and not where.startswith("ipc://"):
        told = "encrypts" if hexadecimal else "does not encrypt"
        raise Unreachable(f"{where} {told}, and this side {'does not' if hexadecimal else 'does'}")
    if curve is None or not hexadecimal:
        return where
    try:
        server_key = z85.encode(bytes.fromhex(hexadecimal))
    except ValueError as error:
        raise Unreachable(f"{where} names no public key") from error
    if not is_key(server_key) or server_key not in curve.peers:
        raise Unreachable(f"{where} has a key that is not among those of the peers")
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, curve.keys.secret)
    return where
