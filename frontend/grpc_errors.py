"""Our errors as gRPC statuses with google.rpc details, as https://google.aip.dev/193 has them.

Every status carries ErrorInfo; BadRequest, RetryInfo or ResourceInfo stand beside it where they say more.
"""

import math
from collections.abc import Iterator

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from engine.errors import InvalidRequest, Overloaded, TandemError, UnknownModel, codes

DOMAIN = "tandem"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_BYTES = 1024  # it is sent two or three times, escaped; clients refuse more than 8 KiB of trailers

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


def rich_status(error: TandemError) -> Status:
    """The google.rpc.Status of `error`."""
    message = _bounded(error.message)
    status = Status(code=codes(error).grpc, message=message)
    for detail in _details(error, message):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(
    context: "grpc.aio.ServicerContext[object, object]", error: TandemError, *, request_id: str = ""
) -> None:
    """End the call with the status of `error`, and with the id of the request if there is one; does not return."""
    status = rich_status(error)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if request_id:
        trailers.append(("x-request-id", request_id))
    await context.abort(_STATUS_CODES[status.code], status.message, tuple(trailers))


def _details(error: TandemError, message: str) -> Iterator[Message]:
    yield details.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(_facts(error)))
    match error:
        case InvalidRequest(field=str(field)):
            violation = details.BadRequest.FieldViolation(field=_bounded(field), description=message)
            yield details.BadRequest(field_violations=[violation])
        case Overloaded(retry_after_s=seconds):
            yield details.RetryInfo(retry_delay=_duration(seconds))
        case UnknownModel():
            yield details.ResourceInfo(resource_type="model", description=message)


def _facts(error: TandemError) -> Iterator[tuple[str, str]]:
    """What programs may want to know, as ErrorInfo has it: by name, in text."""
    if error.field:
        yield "field", _bounded(error.field)
    if isinstance(error, Overloaded) and error.queue_position is not None:
        yield "queue_position", str(error.queue_position)
    if isinstance(error, Overloaded) and error.predicted_ttft_s is not None:
        yield "predicted_ttft_ms", str(round(error.predicted_ttft_s * 1e3))


def _duration(seconds: float) -> Duration:
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _bounded(text: str) -> str:
    return text.encode(errors="replace")[:MAX_MESSAGE_BYTES].decode(errors="ignore")
