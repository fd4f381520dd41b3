"""The errors that calls end with; foreign ones are translated into these, `from` their cause.

TandemError
├── InvalidRequest         a field is missing, malformed or out of range; `field` names it
│   └── ContextOverflow    prompt (plus asked-for tokens) does not fit the model's context
├── NotFound               no such model; or no answer is kept that could be resumed
├── Unsupported            a well-formed request for something this server does not do
├── Unauthenticated        the key is missing or wrong
├── PermissionDenied       the key is right, but not for this
├── Overloaded             no room now; `retry_after_s` says when there may be
├── Unavailable            the server is draining, or its workers are gone
│   └── ConnectionLost     nobody was reached, or the connection broke
├── DeadlineExceeded       the call's timeout passed
├── Cancelled              the call was cancelled here
└── Poisoned               workers keep dying of this very request
"""

from typing import Any

import grpc

from tandem_client import status_pb2

DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"


class TandemError(Exception):
    """Root of the tree; an instance of exactly this class is a fault of the server's."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        facts: dict[str, str] | None = None,
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        """The server's word for it, which does not change; empty where no server said it."""
        self.facts = facts or {}
        """What else the server says of it, by name."""
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        """By which the server's log knows the request; empty where it is not known."""

    @property
    def field(self) -> str | None:
        """The field of the request that is at fault."""
        return self.facts.get("field")


class InvalidRequest(TandemError):
    pass


class ContextOverflow(InvalidRequest):
    pass


class NotFound(TandemError):
    pass


class Unsupported(TandemError):
    pass


class Unauthenticated(TandemError):
    pass


class PermissionDenied(TandemError):
    pass


class Overloaded(TandemError):
    @property
    def queue_position(self) -> int | None:
        """How many requests wait before this one."""
        return _number(self.facts.get("queue_position"))

    @property
    def predicted_ttft_ms(self) -> int | None:
        """The first token would come so late."""
        return _number(self.facts.get("predicted_ttft_ms"))


class Unavailable(TandemError):
    pass


class ConnectionLost(Unavailable):
    pass


class DeadlineExceeded(TandemError):
    pass


class Cancelled(TandemError):
    pass


class Poisoned(TandemError):
    pass


_BY_REASON = {"CONTEXT_LENGTH_EXCEEDED": ContextOverflow, "POISONED": Poisoned}
_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
_UNSAID = {
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
    grpc.StatusCode.CANCELLED: ConnectionLost,  # who cancels himself does not ask why
    grpc.StatusCode.INTERNAL: ConnectionLost,
    grpc.StatusCode.UNKNOWN: ConnectionLost,
}
"""By the code of a status without ErrorInfo: not the server's, but of gRPC or a proxy in between."""


def from_rpc(error: grpc.RpcError) -> TandemError:
    """What a call of gRPC's failed for; `error` is its cause."""
    code, message = error.code(), error.details() or ""
    trailers: dict[Any, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type] # they are pairs
    info, retry_after_s = _details(trailers.get(DETAILS_KEY))
    if info is None:
        kind = _UNSAID.get(code) or _BY_CODE.get(code, TandemError)
    else:
        kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code, TandemError)
    made = kind(
        message or code.name,
        code=code,
        reason=info.reason if info else "",
        facts=dict(info.metadata) if info else None,
        retry_after_s=retry_after_s,
        request_id=str(trailers.get(REQUEST_ID_KEY, "")),
    )
    made.__cause__ = error
    return made


def cancelled(request_id: str) -> Cancelled:
    return Cancelled("the answer was cancelled", code=grpc.StatusCode.CANCELLED, request_id=request_id)


def _details(raw: Any) -> tuple[status_pb2.ErrorInfo | None, float | None]:
    info, retry_after_s = None, None
    for detail in status_pb2.Status.FromString(raw or b"").details:
        match detail.type_url.rpartition("/")[2]:
            case "google.rpc.ErrorInfo":
                info = status_pb2.ErrorInfo.FromString(detail.value)
            case "google.rpc.RetryInfo":
                delay = status_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after_s = delay.seconds + delay.nanos / 1e9
    return info, retry_after_s


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
