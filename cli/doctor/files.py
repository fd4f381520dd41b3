"""Looks at files that a deployment is given: who may read keys, whether certificates hold, what a model lacks."""

import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.doctor.findings import Finding, failure, ok, warning
from engine.errors import ConfigError
from engine.tls import Tls
from frontend.callers import read_keys

SOON_S = 30 * 86400.0
"""A certificate that ends before is told."""


def check_private(path: Path, what: str) -> Finding:
    """Whether others than its owner may read or change it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return failure("keys", f"{path}: {error.strerror}", f"name the file of {what} that there is")
    if mode & stat.S_IRWXO or mode & stat.S_IWGRP:
        return failure("keys", f"{path} can be read or changed by others ({stat.filemode(mode)})", f"chmod 600 {path}")
    if mode & stat.S_IRGRP:
        return warning("keys", f"{path} can be read by its group ({stat.filemode(mode)})", f"chmod 600 {path}")
    return ok("keys", f"{path} is its owner's alone")


def check_tls(cert: Path, key: Path, ca: Path | None, now_s: float) -> Iterator[Finding]:
    yield check_private(key, "a certificate's key")
    try:
        Tls(str(cert), str(key), str(ca or ""))
    except ConfigError as error:
        yield failure("tls", error.message, "a certificate and its own key, as PEM")
        return
    ends_s = _not_after(cert)
    if ends_s is None:
        yield ok("tls", f"{cert} and {key} fit together")
        return
    day = time.strftime("%Y-%m-%d", time.gmtime(ends_s))
    if ends_s < now_s:
        yield failure("tls", f"{cert} ended on {day}", "renew it: files that change are read again, without a restart")
    elif ends_s < now_s + SOON_S:
        yield warning("tls", f"{cert} ends on {day}", "renew it: files that change are read again, without a restart")
    else:
        yield ok("tls", f"{cert} and {key} fit together, until {day}")


def check_api_keys(path: Path) -> Iterator[Finding]:
    """Only hashes are in it: who reads it learns names and limits, who changes it lets himself in."""
    try:
        callers = read_keys(path)
    except ConfigError as error:
        yield failure("keys", error.message, "tandem keys api NAME --file FILE writes such a file")
        return
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield failure("keys", f"{path} can be changed by others than its owner", f"chmod go-w {path}")
    else:
        yield ok("keys", f"{path} has {len(callers)} keys")


def _not_after(cert: Path) -> float | None:
    """When a certificate ends (Unix); None where that cannot be told."""
    try:
        # What ssl shows of a certificate it shows of a peer's; of a file it does so under a name of its own.
        decoded = ssl._ssl._test_decode_cert(str(cert))  # type: ignore[attr-defined]
        return float(ssl.cert_time_to_seconds(decoded["notAfter"]))
    except (AttributeError, OSError, ValueError, KeyError):
        return None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model folder holds, as far as workers and the frontend will use it."""

    findings: tuple[Finding, ...]
    num_parameters: int = 0
    kv_bytes_per_token: int = 0
    """In float32."""


def look_at_model(folder: Path) -> ModelFacts:
    """Reads what a frontend and a worker would, but no weights."""
    from engine.checkpoint import check_weights  # torch, of which --help has no need
    from frontend.model import LoadedModel

    try:
        model = LoadedModel.load(folder, folder.name, None)
        assert model.spec is not None
        shards = check_weights(folder, model.spec)
    except ConfigError as error:
        return ModelFacts((failure("model", f"{folder}: {error.message}", _remedy(error.message)),))
    spec = model.spec
    told = [
        ok(
            "model",
            f"{spec.architecture}, {spec.num_parameters / 1e6:,.0f} million parameters in {len(shards)} "
            f"files, context {spec.max_context}",
        )
    ]
    if model.template is None:
        change = "a folder with a chat template, or --chat-template FILE; completions work without"
        told.append(warning("model", f"{folder} has no chat template: conversations are refused", change))
    else:
        told.append(ok("model", "it has a tokenizer and a chat template"))
    return ModelFacts(tuple(told), spec.num_parameters, 2 * spec.num_layers * spec.kv_size * 4)


def _remedy(message: str) -> str:
    if "cut short" in message or "missing" in message:
        return "fetch it again: a download was not finished"
    if "tokenizer" in message:
        return "the folder needs a tokenizer.json (Hugging Face's fast tokenizer)"
    return "a Llama, Mistral, Qwen2 or Qwen3 checkpoint with config.json, tokenizer.json and *.safetensors"
