from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NackReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NACK_REASON_UNSPECIFIED: _ClassVar[NackReason]
    NACK_REASON_STALE: _ClassVar[NackReason]
    NACK_REASON_CORRUPT: _ClassVar[NackReason]
    NACK_REASON_MALFORMED: _ClassVar[NackReason]
NACK_REASON_UNSPECIFIED: NackReason
NACK_REASON_STALE: NackReason
NACK_REASON_CORRUPT: NackReason
NACK_REASON_MALFORMED: NackReason

class Ticket(_message.Message):
    __slots__ = ("id", "worker_id", "incarnation", "attempt", "num_blocks", "first_block", "block_bytes", "layout", "endpoints")
    ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    worker_id: str
    incarnation: str
    attempt: int
    num_blocks: int
    first_block: int
    block_bytes: int
    layout: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    def __init__(self, id: _Optional[str] = ..., worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., attempt: _Optional[int] = ..., num_blocks: _Optional[int] = ..., first_block: _Optional[int] = ..., block_bytes: _Optional[int] = ..., layout: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("transport", "address")
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    transport: str
    address: str
    def __init__(self, transport: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class SenderFrame(_message.Message):
    __slots__ = ("fence", "number", "blocks", "commit", "attach", "copy", "join", "stored", "leave")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    fence: Fence
    number: int
    blocks: Blocks
    commit: Commit
    attach: Attach
    copy: Copy
    join: Join
    stored: Stored
    leave: Leave
    def __init__(self, fence: _Optional[_Union[Fence, _Mapping]] = ..., number: _Optional[int] = ..., blocks: _Optional[_Union[Blocks, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ..., join: _Optional[_Union[Join, _Mapping]] = ..., stored: _Optional[_Union[Stored, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ...) -> None: ...

class ReceiverFrame(_message.Message):
    __slots__ = ("fence", "number", "ack", "nack", "stored")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    fence: Fence
    number: int
    ack: Ack
    nack: Nack
    stored: Stored
    def __init__(self, fence: _Optional[_Union[Fence, _Mapping]] = ..., number: _Optional[int] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ..., stored: _Optional[_Union[Stored, _Mapping]] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("ticket_id", "incarnation", "attempt")
    TICKET_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ticket_id: str
    incarnation: str
    attempt: int
    def __init__(self, ticket_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class Blocks(_message.Message):
    __slots__ = ("block", "offset", "checksums")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    block: int
    offset: int
    checksums: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, block: _Optional[int] = ..., offset: _Optional[int] = ..., checksums: _Optional[_Iterable[int]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("size_bytes", "block_bytes", "cuda")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    CUDA_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    block_bytes: int
    cuda: CudaMemory
    def __init__(self, size_bytes: _Optional[int] = ..., block_bytes: _Optional[int] = ..., cuda: _Optional[_Union[CudaMemory, _Mapping]] = ...) -> None: ...

class CudaMemory(_message.Message):
    __slots__ = ("handle", "size_bytes", "offset_bytes", "counter", "counter_offset", "event", "has_event")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    COUNTER_OFFSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    HAS_EVENT_FIELD_NUMBER: _ClassVar[int]
    handle: bytes
    size_bytes: int
    offset_bytes: int
    counter: bytes
    counter_offset: int
    event: bytes
    has_event: bool
    def __init__(self, handle: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., counter: _Optional[bytes] = ..., counter_offset: _Optional[int] = ..., event: _Optional[bytes] = ..., has_event: _Optional[bool] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("first", "source_blocks")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    first: int
    source_blocks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, first: _Optional[int] = ..., source_blocks: _Optional[_Iterable[int]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("backend", "device")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    backend: str
    device: str
    def __init__(self, backend: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class Stored(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Commit(_message.Message):
    __slots__ = ("num_blocks", "digest", "first_token", "traceparent")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    digest: int
    first_token: int
    traceparent: str
    def __init__(self, num_blocks: _Optional[int] = ..., digest: _Optional[int] = ..., first_token: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Nack(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: NackReason
    message: str
    def __init__(self, reason: _Optional[_Union[NackReason, str]] = ..., message: _Optional[str] = ...) -> None: ...
