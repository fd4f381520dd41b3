"""Who asks: what an API key stands for, and how much its holder may ask.

Keys come from a file that holds only their SHA-256 (they are random, so the hash cannot be turned back); the file is
read again when it changes. Every key has a prefix cache of its own, its tenant's, so that nobody learns by the time to
his first token what others have asked. Knows keys and their limits. Does not know dialects or workers.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.errors import ConfigError, Limit, Overloaded, PermissionDenied
from engine.sequence import BlockHash
from engine.watched_file import WatchedFile

SHARED = BlockHash(bytes(16))
"""Where the hashes begin of prompts that everybody may find in the cache."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from."""

    name: str = ""
    tenant: str = ""
    """Whose prefix cache is used; empty is everybody's."""
    models: frozenset[str] | None = None
    """That may be asked; None: all."""
    priority: int = 0
    """Of those who wait for a worker, who has the lowest number goes first."""
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf

    @property
    def hash_root(self) -> BlockHash:
        """Parent of the first block hash of every prompt."""
        return BlockHash(hashlib.sha256(self.tenant.encode()).digest()[:16]) if self.tenant else SHARED

    @property
    def is_operator(self) -> bool:
        """Whether it may see what became of everybody's requests: who holds the server's one key, and anybody where no
        key is asked for. Each key of the file stands for a client, who sees its own."""
        return not self.name

    def may_ask(self, model: str) -> bool:
        return self.models is None or model in self.models

    def check_model(self, model: str) -> None:
        if not self.may_ask(model):
            raise PermissionDenied(f"the key {self.name!r} is not for the model {model!r}", field="model")


ANYBODY = Caller()


def salted(root: BlockHash, salt: str) -> BlockHash:
    """Parent of the first block hash of prompts that are to share nothing with those of another salt, or of none."""
    return BlockHash(hashlib.sha256(root + salt.encode("utf-8", "surrogatepass")).digest()[:16])


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[key]]` of the file. Limits that are not given are none."""

    name: str
    sha256: str
    tenant: str | None = None
    models: list[str] | None = None
    priority: int = 0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def caller(self) -> Caller:
        return Caller(
            name=self.name,
            tenant=self.name if self.tenant is None else self.tenant,
            models=None if self.models is None else frozenset(self.models),
            priority=self.priority,
            requests_per_minute=math.inf if self.requests_per_minute is None else self.requests_per_minute,
            tokens_per_minute=math.inf if self.tokens_per_minute is None else self.tokens_per_minute,
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: list[_Key]


def hash_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def read_keys(path: Path) -> dict[str, Caller]:
    """Who each key's hash stands for. Raises ConfigError naming what is wrong."""
    try:
        file = msgspec.toml.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise ConfigError(f"cannot read API keys: {path}: {error.strerror}", field="api_keys") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no file of API keys: {error}", field="api_keys") from error
    callers: dict[str, Caller] = {}
    for key in file.key:
        wrong = _wrong(key)
        if not wrong and (key.sha256.lower() in callers or key.name in {each.name for each in callers.values()}):
            wrong = "is there twice"
        if wrong:
            raise ConfigError(f"{path}: the key {key.name!r} {wrong}", field="api_keys")
        callers[key.sha256.lower()] = key.caller()
    return callers


def _wrong(key: _Key) -> str | None:
    digits = set(key.sha256.lower())
    if not key.name:
        return "has no name"
    if len(key.sha256) != 64 or not digits <= set("0123456789abcdef"):
        return "has no SHA-256 of 64 hexadecimal digits"
    limits = (key.requests_per_minute, key.tokens_per_minute)
    return None if all(limit is None or limit > 0 for limit in limits) else "has a limit that is not above 0"


@dataclass(slots=True)
class Bucket:
    """Refills at `per_minute`, and holds a minute's worth."""

    per_minute: float
    now: Callable[[], float] = time.monotonic
    _level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._at = self.per_minute, self.now()

    def wait_s(self, amount: float) -> float:
        """Seconds until it holds `amount`, or all that it can; 0 if it does."""
        self._refill()
        missing = min(amount, self.per_minute) - self._level
        return max(missing, 0.0) * 60 / self.per_minute if missing > 0 else 0.0

    def take(self, amount: float) -> None:
        """May leave less than nothing, for what is larger than the bucket is taken too."""
        self._refill()
        self._level -= amount

    def give(self, amount: float) -> None:
        self._level = min(self._level + amount, self.per_minute)

    def left(self) -> "Left | None":
        """None of a bucket without a limit."""
        if math.isinf(self.per_minute):
            return None
        self._refill()
        return Left(self.per_minute, max(self._level, 0.0), (self.per_minute - self._level) * 60 / self.per_minute)

    def _refill(self) -> None:
        now = self.now()
        if math.isfinite(self.per_minute):
            self._level = min(self._level + (now - self._at) * self.per_minute / 60, self.per_minute)
        self._at = now


@dataclass(frozen=True, slots=True)
class Left:
    """What a caller has left of one of its limits."""

    limit: float
    """Per minute."""
    left: float
    full_in_s: float


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has left once a request was charged; None where there is no limit."""

    requests: Left | None = None
    tokens: Left | None = None


UNLIMITED = Allowance()


class UsedUp(Overloaded):
    """A caller has not enough left of its own limits."""

    def __init__(self, message: str, *, retry_after_s: float, limit: Limit, allowance: Allowance) -> None:
        super().__init__(message, retry_after_s=retry_after_s, limit=limit)
        self.allowance = allowance


class Allowances:
    """How much each caller has left of its limits, of one model."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[Caller, tuple[Bucket, Bucket]] = {}

    @contextmanager
    def charged(
        self, caller: Caller, prompt_tokens: int, max_tokens: int, num_output: Callable[[], int]
    ) -> Iterator[Allowance]:
        """Take a request's share of `caller`'s limits: its prompt, and as much as its answer may have; of that, what
        `num_output` says at the end was not used is given back.

        Raises UsedUp, with the time until there is enough. A request larger than a whole minute's tokens waits
        until all of these are there, and leaves a debt.
        """
        if math.isinf(caller.requests_per_minute) and math.isinf(caller.tokens_per_minute):
            yield UNLIMITED
            return
        requests, tokens = self._of(caller)
        checks: tuple[tuple[Bucket, int, str, Limit], ...] = (
            (requests, 1, f"{caller.requests_per_minute:g} requests", "key_requests"),
            (tokens, prompt_tokens + max_tokens, f"{caller.tokens_per_minute:g} tokens", "key_tokens"),
        )
        for bucket, amount, words, limit in checks:
            if (wait_s := bucket.wait_s(amount)) > 0:
                message = f"the key {caller.name!r} has used up its {words} per minute"
                left = Allowance(requests.left(), tokens.left())
                raise UsedUp(message, retry_after_s=wait_s, limit=limit, allowance=left)
        requests.take(1)
        tokens.take(prompt_tokens + max_tokens)
        try:
            yield Allowance(requests.left(), tokens.left())
        finally:
            tokens.give(max(max_tokens - num_output(), 0))

    def _of(self, caller: Caller) -> tuple[Bucket, Bucket]:
        if caller not in self._buckets:
            stale = [other for other in self._buckets if other.name == caller.name]  # its limits have changed
            for other in stale:
                del self._buckets[other]
            limits = caller.requests_per_minute, caller.tokens_per_minute
            self._buckets[caller] = Bucket(limits[0], self._now), Bucket(limits[1], self._now)
        return self._buckets[caller]


class KeyRing:
    """Knows callers by their keys: one key for everybody, a file of them, both, or none, which lets anybody in."""

    def __init__(self, single: str = "", path: Path | None = None) -> None:
        """Raises ConfigError when the file cannot be used."""
        self._single = {hash_of(single.encode()): ANYBODY} if single else {}
        self._file = WatchedFile(path, read_keys) if path else None

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._single and self._file is None

    def find(self, key: bytes) -> Caller | None:
        """Whose key this is; None if it is nobody's."""
        if self.is_open:
            return ANYBODY
        digest = hash_of(key)
        return (self._file.content.get(digest) if self._file else None) or self._single.get(digest)

    def identify(self, authorization: str, charset: str = "utf-8") -> Caller | None:
        """Who sent this `authorization` header, whose bytes were read in `charset`; None if nobody that is known."""
        if self.is_open:
            return ANYBODY
        key = bearer_key(authorization)
        return self.find(key.encode(charset)) if key else None


def bearer_key(authorization: str) -> str | None:
    """The key in an `authorization` header; None if it has none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
