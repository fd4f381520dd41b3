"""How addresses are written, which of them only this machine reaches, and what others may not reach unguarded."""

import ipaddress

from engine.errors import ConfigError


def in_url(host: str) -> str:
    """A name or an address as it stands before a port: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Of a name or an address; a name that is not localhost may be anything."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(address: str) -> bool:
    """Of `host:port`, with or without `tcp://`; `unix:` and `ipc:` are files."""
    if address.startswith(("unix:", "ipc:")):
        return True
    return is_loopback(address.removeprefix("tcp://").rpartition(":")[0])


def check_guarded(address: str, *, guarded: bool, insecure: bool, how: str) -> None:
    """Raise ConfigError for an address that other machines reach and where anybody would be let in; `how` says what
    would guard it."""
    if not guarded and not insecure and not is_local(address):
        message = f"{address} can be reached from other machines, and lets anybody in: give {how}, or say --insecure"
        raise ConfigError(message, field="listen")
