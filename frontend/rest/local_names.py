"""Whom a server answers that asks nobody for a key: this machine, but not every page that a browser shows there.

A page of the web cannot read what another server says, but it can have its own name mean this machine (DNS rebinding),
and it can send what it never reads. So requests must name this machine by an address or a local name, and those that
pages of other sites send are refused. Knows headers. Does not know what is asked.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import PermissionDenied
from engine.exposure import is_loopback

LOCAL = (".localhost", ".local", ".internal")
"""Names that nobody can have in the public DNS."""
HARMLESS = ("GET", "HEAD", "OPTIONS")
"""What a page may send anywhere, and nothing happens; without CORS it reads no answer."""


class LocalNames:
    """Raises PermissionDenied. Pages of `origins` may ask."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._hosts = {urlsplit(origin).hostname for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_host(headers.get("host", ""))
            if (origin := headers.get("origin")) is not None and scope["method"] not in HARMLESS:
                self._check_origin(origin, headers.get("host", ""))
        await self._app(scope, receive, send)

    def _check_host(self, given: str) -> None:
        host = _host_of(f"//{given}")
        if not (_is_local(host) or host in self._hosts):
            message = f"{given[:80]!r} is no name of this machine, and the server asks nobody for a key"
            raise PermissionDenied(f"{message}: give it --api-key or --api-keys, or say --insecure")

    def _check_origin(self, origin: str, host: str) -> None:
        page = urlsplit(origin)
        if page.scheme not in ("http", "https", "") or origin in self._origins or page.netloc == host:
            return
        if not is_loopback(_host_of(origin)):
            raise PermissionDenied(f"pages of {origin[:80]!r} may not ask here: --cors-origins names those that may")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return "?.?"


def _is_local(host: str) -> bool:
    """Of an address, which needs no DNS; of a name without a dot, which is not in the public one; of a local name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host.rstrip(".") or host.rstrip(".").endswith(LOCAL)
    return True
