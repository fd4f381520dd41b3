"""Which app a request is for, where dialects are mounted by themselves: by the port it came to, then by its path.

An app below a prefix does not see the prefix. Does not know dialects.
"""

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engine.errors import ConfigError
from frontend.mounts import Mount
from frontend.rest.dialect import Errors


class Mounted:
    """The ASGI app in front of the others: `whole`, and each mount's."""

    def __init__(self, whole: Starlette, mounts: Sequence[Mount], build: Callable[[Mount], Starlette]) -> None:
        """Ports are those that `mounts` really have. Raises ConfigError for a prefix that `whole` has itself."""
        for mount in mounts:
            _check_prefix(mount, whole)
        self._whole = whole
        self._by_port = {mount.port: build(mount) for mount in mounts if mount.port is not None}
        self._by_prefix = {mount.prefix: build(mount) for mount in mounts if mount.prefix}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._at(scope.get("server"))
        if app is self._whole:
            path = scope["path"]
            for prefix, mounted in self._by_prefix.items():
                if path == prefix or path.startswith(f"{prefix}/"):
                    app, scope = mounted, {**scope, "path": path.removeprefix(prefix) or "/"}
        await app(scope, receive, send)

    def errors_at(self, server: tuple[str, int | None] | None) -> Errors:
        """How errors are told at the address `server` of this machine, where no path has been read."""
        errors: Errors = self._at(server).state.errors
        return errors

    def _at(self, server: tuple[str, int | None] | None) -> Starlette:
        port = None if server is None else server[1]
        return self._whole if port is None else self._by_port.get(port, self._whole)


def _check_prefix(mount: Mount, whole: Starlette) -> None:
    for route in whole.routes:
        if mount.prefix and isinstance(route, Route) and (first := _first(route.path)) == _first(mount.prefix):
            why = f"this server has {route.path} itself; begin with something else than /{first}"
            raise ConfigError(f"--mount {mount}: {why}", field="mount")


def _first(path: str) -> str:
    return path.split("/")[1]
