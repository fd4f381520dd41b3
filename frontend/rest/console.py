"""The console: a page made of plain files, and of what only code knows, like the words for a ledger's segments.

The files are open, as there is nothing in them; what the page shows it asks for with a key. It loads nothing from
elsewhere and runs no script but these files: its Content-Security-Policy says so, and forbids other sites to frame it.
Addresses in it are relative, so that it works below any prefix.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frontend.history import SERVER_FAULTS
from frontend.segments import SEGMENTS

FOLDER = Path(__file__).resolve().parents[1] / "console"
PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked about each time: an upgrade is seen at once
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    body: bytes
    media_type: str
    etag: str
    """Weak: on its way out it may be compressed."""

    @classmethod
    def of(cls, name: str, body: bytes) -> "Asset":
        return cls(body, MEDIA_TYPES[Path(name).suffix], f'W/"{hashlib.sha256(body).hexdigest()[:20]}"')

    async def answer(self, request: Request) -> Response:
        headers = {**HEADERS, "ETag": self.etag, "Vary": "Accept"}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {"*", self.etag.removeprefix("W/")}:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


class Console:
    """Read with GET, by anybody."""

    def __init__(self) -> None:
        bodies = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
        bodies["facts.js"] = facts()
        assets = {name: Asset.of(name, body) for name, body in bodies.items()}
        self.page = assets.pop(PAGE)
        self._assets = {"/console": self.page, **{f"/console/{name}": asset for name, asset in assets.items()}}

    @property
    def routes(self) -> list[Route]:
        return [Route(path, asset.answer) for path, asset in self._assets.items()]

    @property
    def public(self) -> frozenset[str]:
        """Paths that need no key."""
        return frozenset(self._assets)


def facts() -> bytes:
    """A module of what the page would else have to know twice."""
    segments = [segment._asdict() for segment in SEGMENTS]
    told = {"SEGMENTS": segments, "FAULTS": sorted(SERVER_FAULTS)}
    return b"".join(b"export const %s = %s;\n" % (name.encode(), msgspec.json.encode(it)) for name, it in told.items())
