from protos import kvtransfer_pb2 as _kvtransfer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_MEAN: _ClassVar[Pooling]
    POOLING_LAST: _ClassVar[Pooling]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_PREFILL: _ClassVar[Role]
    ROLE_DECODE: _ClassVar[Role]

class RefusalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_REASON_UNSPECIFIED: _ClassVar[RefusalReason]
    REFUSAL_REASON_FULL: _ClassVar[RefusalReason]
    REFUSAL_REASON_TOO_LARGE: _ClassVar[RefusalReason]
    REFUSAL_REASON_DRAINING: _ClassVar[RefusalReason]
    REFUSAL_REASON_INVALID: _ClassVar[RefusalReason]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_COMPLETE: _ClassVar[FinishReason]

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_TRANSFER: _ClassVar[FailureReason]
    FAILURE_REASON_EXPIRED: _ClassVar[FailureReason]
    FAILURE_REASON_INVALID: _ClassVar[FailureReason]
    FAILURE_REASON_DEAD_END: _ClassVar[FailureReason]
POOLING_UNSPECIFIED: Pooling
POOLING_MEAN: Pooling
POOLING_LAST: Pooling
ROLE_UNSPECIFIED: Role
ROLE_PREFILL: Role
ROLE_DECODE: Role
REFUSAL_REASON_UNSPECIFIED: RefusalReason
REFUSAL_REASON_FULL: RefusalReason
REFUSAL_REASON_TOO_LARGE: RefusalReason
REFUSAL_REASON_DRAINING: RefusalReason
REFUSAL_REASON_INVALID: RefusalReason
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_COMPLETE: FinishReason
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_TRANSFER: FailureReason
FAILURE_REASON_EXPIRED: FailureReason
FAILURE_REASON_INVALID: FailureReason
FAILURE_REASON_DEAD_END: FailureReason

class WorkerCommand(_message.Message):
    __slots__ = ("admit", "abort", "renew_lease", "drain", "regrant", "clock_probe", "keep_trace")
    ADMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    RENEW_LEASE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    REGRANT_FIELD_NUMBER: _ClassVar[int]
    CLOCK_PROBE_FIELD_NUMBER: _ClassVar[int]
    KEEP_TRACE_FIELD_NUMBER: _ClassVar[int]
    admit: Admit
    abort: Abort
    renew_lease: RenewLease
    drain: Drain
    regrant: Regrant
    clock_probe: ClockProbe
    keep_trace: KeepTrace
    def __init__(self, admit: _Optional[_Union[Admit, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., renew_lease: _Optional[_Union[RenewLease, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., regrant: _Optional[_Union[Regrant, _Mapping]] = ..., clock_probe: _Optional[_Union[ClockProbe, _Mapping]] = ..., keep_trace: _Optional[_Union[KeepTrace, _Mapping]] = ...) -> None: ...

class Admit(_message.Message):
    __slots__ = ("leg", "request_id", "attempt", "token_ids", "num_prompt", "block_hashes", "sampling", "traceparent", "hash_root", "grammar", "pooling", "prompt_logprobs", "reserve", "local", "push", "single_token")
    LEG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    HASH_ROOT_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    SINGLE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    leg: int
    request_id: str
    attempt: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_prompt: int
    block_hashes: bytes
    sampling: Sampling
    traceparent: str
    hash_root: bytes
    grammar: str
    pooling: Pooling
    prompt_logprobs: int
    reserve: Reserve
    local: Local
    push: Push
    single_token: SingleToken
    def __init__(self, leg: _Optional[int] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., num_prompt: _Optional[int] = ..., block_hashes: _Optional[bytes] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., traceparent: _Optional[str] = ..., hash_root: _Optional[bytes] = ..., grammar: _Optional[str] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., prompt_logprobs: _Optional[int] = ..., reserve: _Optional[_Union[Reserve, _Mapping]] = ..., local: _Optional[_Union[Local, _Mapping]] = ..., push: _Optional[_Union[Push, _Mapping]] = ..., single_token: _Optional[_Union[SingleToken, _Mapping]] = ...) -> None: ...

class Reserve(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Local(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Push(_message.Message):
    __slots__ = ("ticket",)
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ticket: _kvtransfer_pb2.Ticket
    def __init__(self, ticket: _Optional[_Union[_kvtransfer_pb2.Ticket, _Mapping]] = ...) -> None: ...

class SingleToken(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("max_tokens", "min_tokens", "seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "stop_token_ids", "num_logprobs")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    min_tokens: int
    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_logprobs: int
    def __init__(self, max_tokens: _Optional[int] = ..., min_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., num_logprobs: _Optional[int] = ...) -> None: ...

class Regrant(_message.Message):
    __slots__ = ("leg", "attempt", "heard", "reserve", "local")
    LEG_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    leg: int
    attempt: int
    heard: int
    reserve: Reserve
    local: Local
    def __init__(self, leg: _Optional[int] = ..., attempt: _Optional[int] = ..., heard: _Optional[int] = ..., reserve: _Optional[_Union[Reserve, _Mapping]] = ..., local: _Optional[_Union[Local, _Mapping]] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("leg",)
    LEG_FIELD_NUMBER: _ClassVar[int]
    leg: int
    def __init__(self, leg: _Optional[int] = ...) -> None: ...

class RenewLease(_message.Message):
    __slots__ = ("legs",)
    LEGS_FIELD_NUMBER: _ClassVar[int]
    legs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, legs: _Optional[_Iterable[int]] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClockProbe(_message.Message):
    __slots__ = ("sent_ns", "axis")
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    AXIS_FIELD_NUMBER: _ClassVar[int]
    sent_ns: int
    axis: ClockAxis
    def __init__(self, sent_ns: _Optional[int] = ..., axis: _Optional[_Union[ClockAxis, _Mapping]] = ...) -> None: ...

class ClockAxis(_message.Message):
    __slots__ = ("unix_at_zero_ns", "within_ns")
    UNIX_AT_ZERO_NS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_NS_FIELD_NUMBER: _ClassVar[int]
    unix_at_zero_ns: int
    within_ns: int
    def __init__(self, unix_at_zero_ns: _Optional[int] = ..., within_ns: _Optional[int] = ...) -> None: ...

class KeepTrace(_message.Message):
    __slots__ = ("trace_id",)
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    trace_id: bytes
    def __init__(self, trace_id: _Optional[bytes] = ...) -> None: ...

class WorkerEvent(_message.Message):
    __slots__ = ("hello", "granted", "refused", "step_output", "prefill_done", "kv_arrived", "failed", "released", "load", "blocks_stored", "blocks_evicted", "prompt_scores", "clock_reply")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    STEP_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PREFILL_DONE_FIELD_NUMBER: _ClassVar[int]
    KV_ARRIVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_STORED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_EVICTED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SCORES_FIELD_NUMBER: _ClassVar[int]
    CLOCK_REPLY_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    granted: Granted
    refused: Refused
    step_output: StepOutput
    prefill_done: PrefillDone
    kv_arrived: KvArrived
    failed: Failed
    released: Released
    load: Load
    blocks_stored: BlocksStored
    blocks_evicted: BlocksEvicted
    prompt_scores: PromptScores
    clock_reply: ClockReply
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., granted: _Optional[_Union[Granted, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., step_output: _Optional[_Union[StepOutput, _Mapping]] = ..., prefill_done: _Optional[_Union[PrefillDone, _Mapping]] = ..., kv_arrived: _Optional[_Union[KvArrived, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., released: _Optional[_Union[Released, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., blocks_stored: _Optional[_Union[BlocksStored, _Mapping]] = ..., blocks_evicted: _Optional[_Union[BlocksEvicted, _Mapping]] = ..., prompt_scores: _Optional[_Union[PromptScores, _Mapping]] = ..., clock_reply: _Optional[_Union[ClockReply, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker_id", "incarnation", "role", "model", "layout", "num_blocks", "block_tokens", "block_bytes", "max_context", "max_sequences", "lease_ms", "vocab_size", "transports", "draining", "max_step_tokens", "profile", "own_profile", "cpu_board")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    OWN_PROFILE_FIELD_NUMBER: _ClassVar[int]
    CPU_BOARD_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    role: Role
    model: str
    layout: str
    num_blocks: int
    block_tokens: int
    block_bytes: int
    max_context: int
    max_sequences: int
    lease_ms: int
    vocab_size: int
    transports: _containers.RepeatedScalarFieldContainer[str]
    draining: bool
    max_step_tokens: int
    profile: Profile
    own_profile: Profile
    cpu_board: str
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., model: _Optional[str] = ..., layout: _Optional[str] = ..., num_blocks: _Optional[int] = ..., block_tokens: _Optional[int] = ..., block_bytes: _Optional[int] = ..., max_context: _Optional[int] = ..., max_sequences: _Optional[int] = ..., lease_ms: _Optional[int] = ..., vocab_size: _Optional[int] = ..., transports: _Optional[_Iterable[str]] = ..., draining: _Optional[bool] = ..., max_step_tokens: _Optional[int] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ..., own_profile: _Optional[_Union[Profile, _Mapping]] = ..., cpu_board: _Optional[str] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("chunk_tokens", "chunk_s", "chunk_context_s", "decode_s", "decode_sequence_s", "decode_context_s")
    CHUNK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_S_FIELD_NUMBER: _ClassVar[int]
    CHUNK_CONTEXT_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_SEQUENCE_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_CONTEXT_S_FIELD_NUMBER: _ClassVar[int]
    chunk_tokens: _containers.RepeatedScalarFieldContainer[int]
    chunk_s: _containers.RepeatedScalarFieldContainer[float]
    chunk_context_s: float
    decode_s: float
    decode_sequence_s: float
    decode_context_s: float
    def __init__(self, chunk_tokens: _Optional[_Iterable[int]] = ..., chunk_s: _Optional[_Iterable[float]] = ..., chunk_context_s: _Optional[float] = ..., decode_s: _Optional[float] = ..., decode_sequence_s: _Optional[float] = ..., decode_context_s: _Optional[float] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("leg", "ticket", "cached_tokens")
    LEG_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    leg: int
    ticket: _kvtransfer_pb2.Ticket
    cached_tokens: int
    def __init__(self, leg: _Optional[int] = ..., ticket: _Optional[_Union[_kvtransfer_pb2.Ticket, _Mapping]] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("leg", "reason", "message", "retry_after_ms")
    LEG_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    leg: int
    reason: RefusalReason
    message: str
    retry_after_ms: int
    def __init__(self, leg: _Optional[int] = ..., reason: _Optional[_Union[RefusalReason, str]] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class StepOutput(_message.Message):
    __slots__ = ("start_ns", "end_ns", "legs", "indices", "token_ids", "finish_reasons", "logprobs", "embeddings")
    START_NS_FIELD_NUMBER: _ClassVar[int]
    END_NS_FIELD_NUMBER: _ClassVar[int]
    LEGS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASONS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    start_ns: int
    end_ns: int
    legs: _containers.RepeatedScalarFieldContainer[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    finish_reasons: _containers.RepeatedScalarFieldContainer[FinishReason]
    logprobs: _containers.RepeatedCompositeFieldContainer[Logprobs]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    def __init__(self, start_ns: _Optional[int] = ..., end_ns: _Optional[int] = ..., legs: _Optional[_Iterable[int]] = ..., indices: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., finish_reasons: _Optional[_Iterable[_Union[FinishReason, str]]] = ..., logprobs: _Optional[_Iterable[_Union[Logprobs, _Mapping]]] = ..., embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("row", "values")
    ROW_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    row: int
    values: bytes
    def __init__(self, row: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class PromptScores(_message.Message):
    __slots__ = ("leg", "first", "logprobs", "ranks", "top_ids", "top")
    LEG_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    leg: int
    first: int
    logprobs: bytes
    ranks: bytes
    top_ids: bytes
    top: bytes
    def __init__(self, leg: _Optional[int] = ..., first: _Optional[int] = ..., logprobs: _Optional[bytes] = ..., ranks: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top: _Optional[bytes] = ...) -> None: ...

class Logprobs(_message.Message):
    __slots__ = ("row", "chosen", "top_ids", "top")
    ROW_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    row: int
    chosen: float
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, row: _Optional[int] = ..., chosen: _Optional[float] = ..., top_ids: _Optional[_Iterable[int]] = ..., top: _Optional[_Iterable[float]] = ...) -> None: ...

class PrefillDone(_message.Message):
    __slots__ = ("leg", "cached_tokens", "num_chunks", "queue_ns", "compute_ns")
    LEG_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    leg: int
    cached_tokens: int
    num_chunks: int
    queue_ns: int
    compute_ns: int
    def __init__(self, leg: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., num_chunks: _Optional[int] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ...) -> None: ...

class KvArrived(_message.Message):
    __slots__ = ("leg", "size_bytes", "first_frame_ns", "commit_ns")
    LEG_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_FRAME_NS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_NS_FIELD_NUMBER: _ClassVar[int]
    leg: int
    size_bytes: int
    first_frame_ns: int
    commit_ns: int
    def __init__(self, leg: _Optional[int] = ..., size_bytes: _Optional[int] = ..., first_frame_ns: _Optional[int] = ..., commit_ns: _Optional[int] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("leg", "reason", "message")
    LEG_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    leg: int
    reason: FailureReason
    message: str
    def __init__(self, leg: _Optional[int] = ..., reason: _Optional[_Union[FailureReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Released(_message.Message):
    __slots__ = ("leg",)
    LEG_FIELD_NUMBER: _ClassVar[int]
    leg: int
    def __init__(self, leg: _Optional[int] = ...) -> None: ...

class ClockReply(_message.Message):
    __slots__ = ("sent_ns", "received_ns", "answered_ns", "unix_at_zero_ns")
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_NS_FIELD_NUMBER: _ClassVar[int]
    UNIX_AT_ZERO_NS_FIELD_NUMBER: _ClassVar[int]
    sent_ns: int
    received_ns: int
    answered_ns: int
    unix_at_zero_ns: int
    def __init__(self, sent_ns: _Optional[int] = ..., received_ns: _Optional[int] = ..., answered_ns: _Optional[int] = ..., unix_at_zero_ns: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("free_blocks", "promised_blocks", "running", "waiting", "waiting_tokens", "prefill_tokens_per_s", "decode_step_s", "transfer_bytes_per_s", "preemptions", "fenced_writes", "draining", "cached_blocks", "leaked_blocks", "slowdown", "stalled", "step_seconds", "step_sequences", "step_tokens", "links", "unready")
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PROMISED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_STEP_S_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    FENCED_WRITES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEAKED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    UNREADY_FIELD_NUMBER: _ClassVar[int]
    free_blocks: int
    promised_blocks: int
    running: int
    waiting: int
    waiting_tokens: int
    prefill_tokens_per_s: float
    decode_step_s: float
    transfer_bytes_per_s: float
    preemptions: int
    fenced_writes: int
    draining: bool
    cached_blocks: int
    leaked_blocks: int
    slowdown: float
    stalled: str
    step_seconds: Histogram
    step_sequences: Histogram
    step_tokens: Histogram
    links: _containers.RepeatedCompositeFieldContainer[KvLink]
    unready: str
    def __init__(self, free_blocks: _Optional[int] = ..., promised_blocks: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., waiting_tokens: _Optional[int] = ..., prefill_tokens_per_s: _Optional[float] = ..., decode_step_s: _Optional[float] = ..., transfer_bytes_per_s: _Optional[float] = ..., preemptions: _Optional[int] = ..., fenced_writes: _Optional[int] = ..., draining: _Optional[bool] = ..., cached_blocks: _Optional[int] = ..., leaked_blocks: _Optional[int] = ..., slowdown: _Optional[float] = ..., stalled: _Optional[str] = ..., step_seconds: _Optional[_Union[Histogram, _Mapping]] = ..., step_sequences: _Optional[_Union[Histogram, _Mapping]] = ..., step_tokens: _Optional[_Union[Histogram, _Mapping]] = ..., links: _Optional[_Iterable[_Union[KvLink, _Mapping]]] = ..., unready: _Optional[str] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("counts", "sum")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum: float
    def __init__(self, counts: _Optional[_Iterable[int]] = ..., sum: _Optional[float] = ...) -> None: ...

class KvLink(_message.Message):
    __slots__ = ("decode_worker_id", "transport", "size_bytes", "transfers", "failures", "bytes_per_s", "in_flight", "in_flight_bytes")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DECODE_WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    decode_worker_id: str
    transport: str
    size_bytes: int
    transfers: int
    failures: _containers.ScalarMap[str, int]
    bytes_per_s: float
    in_flight: int
    in_flight_bytes: int
    def __init__(self, decode_worker_id: _Optional[str] = ..., transport: _Optional[str] = ..., size_bytes: _Optional[int] = ..., transfers: _Optional[int] = ..., failures: _Optional[_Mapping[str, int]] = ..., bytes_per_s: _Optional[float] = ..., in_flight: _Optional[int] = ..., in_flight_bytes: _Optional[int] = ...) -> None: ...

class BlocksStored(_message.Message):
    __slots__ = ("hashes",)
    HASHES_FIELD_NUMBER: _ClassVar[int]
    hashes: bytes
    def __init__(self, hashes: _Optional[bytes] = ...) -> None: ...

class BlocksEvicted(_message.Message):
    __slots__ = ("hashes",)
    HASHES_FIELD_NUMBER: _ClassVar[int]
    hashes: bytes
    def __init__(self, hashes: _Optional[bytes] = ...) -> None: ...

class GetCustodyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCustodyResponse(_message.Message):
    __slots__ = ("worker_id", "incarnation", "num_blocks", "free_blocks", "cached_blocks", "leaked_blocks", "holders")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEAKED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    num_blocks: int
    free_blocks: int
    cached_blocks: int
    leaked_blocks: int
    holders: _containers.RepeatedCompositeFieldContainer[Holder]
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., num_blocks: _Optional[int] = ..., free_blocks: _Optional[int] = ..., cached_blocks: _Optional[int] = ..., leaked_blocks: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("request_id", "leg", "session", "state", "blocks", "age_s", "lease_s", "reason", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LEG_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    leg: int
    session: str
    state: str
    blocks: _containers.RepeatedScalarFieldContainer[int]
    age_s: float
    lease_s: float
    reason: str
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., leg: _Optional[int] = ..., session: _Optional[str] = ..., state: _Optional[str] = ..., blocks: _Optional[_Iterable[int]] = ..., age_s: _Optional[float] = ..., lease_s: _Optional[float] = ..., reason: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...
