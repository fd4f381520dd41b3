"""What one dialect of HTTP brings to the app: paths, their description, and how it says that something failed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

Json = dict[str, object]

ERRORS = "tandem.errors"
"""Where a request's scope says in whose words it is told of errors, once its body has shown that: of paths that several
dialects have."""


class HeaderRoute(Route):
    """A path that another dialect has, too: for requests with a header that only this one's clients send.

    It comes before the routes of everybody.
    """

    def __init__(self, header: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, endpoint)
        self._header = header

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if match is not Match.NONE and self._header not in Headers(scope=scope):
            return Match.NONE, {}
        return match, child_scope


class Errors(Protocol):
    """How a dialect's clients read errors: a TandemError, a starlette HTTPException, or one that is not ours, of which
    nothing is said but that there was one."""

    def response_of(self, error: Exception) -> Response: ...

    def body_of(self, error: Exception) -> bytes:
        """The JSON of an error that no app has seen, as of what is not HTTP."""

    def part_of(self, error: Exception) -> bytes:
        """The end of a stream that failed after its headers were sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """`errors` are for all paths of `routes`. What a path answers is in `operations`, as OpenAPI has it."""

    name: str
    routes: Sequence[Route]
    errors: Errors
    operations: Mapping[str, Json]
    schemas: Sequence[type] = ()
    """Structs that `operations` refer to."""
    closed: frozenset[str] = frozenset()
    """Names of those, or of Structs in them, whose unknown fields are refused by `frontend.fields`."""
    public: frozenset[str] = frozenset()
    """Paths that anybody may GET, without a key."""
