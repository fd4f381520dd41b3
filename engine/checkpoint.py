"""Reads a model from a Hugging Face folder: config, end-of-text ids and safetensors weights.

Every name, shape and type is checked against the model's spec before a byte of weight is read. Knows files. Does not
know how a model computes, nor where the folder came from. Pickled weights are refused.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.eight_bit import SCALE, scaled_shapes, unscale
from engine.errors import ConfigError
from engine.four_bit import FourBitWeights, is_int32, is_part, optional_shapes, packed_shapes
from engine.models.spec import EightBitSpec, FourBitSpec, ModelSpec
from engine.models.tensors import EMBEDDING, HEAD, expected_shapes
from engine.tp.split import Split

logger = logging.getLogger(__name__)

_DTYPES = frozenset({"F32", "BF16", "F16"})
_MAX_HEADER_BYTES = 100_000_000
_SAMPLE_BYTES = 64
_MAX_NAME_CHARS = 200
"""Of a file; the system raises an error of its own for a name that it cannot take."""

Weights = MutableMapping[str, torch.Tensor]
"""Tensors by their name in the checkpoint, all of the type to compute in; who packs them takes them out."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checkpoint on disk and what its small files say."""

    path: Path
    config: Mapping[str, object]
    eos_token_ids: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder")
        config = _read_json(path / "config.json")
        generation = path / "generation_config.json"
        stated = _read_json(generation).get("eos_token_id") if generation.exists() else None
        return cls(path, config, _token_ids(config.get("eos_token_id") if stated is None else stated))


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as a safetensors header describes it; `begin` and `end` are offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file and its header."""

    path: Path
    header: bytes
    tensors: Mapping[str, TensorEntry]

    @classmethod
    def open(cls, path: Path) -> "Shard":
        if not path.is_file():
            raise ConfigError(f"{path.name} is missing")
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes, _MAX_HEADER_BYTES):
                raise ConfigError(f"{path.name} is not a safetensors file, or cut short")
            header = file.read(length)
        try:
            entries = json.loads(header)
            entries.pop("__metadata__", None)
            tensors = {name: _tensor_entry(entry, 8 + length) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigError(f"{path.name} has a broken safetensors header") from error
        end = max((tensor.end for tensor in tensors.values()), default=0)
        if end > size_bytes:
            raise ConfigError(f"{path.name} is cut short: {size_bytes} bytes of {end}")
        return cls(path, header, tensors)


def load_weights(folder: ModelFolder, spec: ModelSpec, dtype: torch.dtype, split: Split | None = None) -> Weights:
    """Every tensor that `spec` needs, by its name in the checkpoint, converted to `dtype`: matrices of four bits only
    when they are taken out. With `split`, one rank's part of each, and no more is read."""
    split = split or Split(spec, 0, 1)
    shards = open_shards(folder.path)
    stored = _Stored.of(spec)
    _check(shards, stored, spec)
    weights: dict[str, torch.Tensor] = {}
    for index, shard in enumerate(shards, start=1):
        logger.info("reading %s (%d of %d)", shard.path.name, index, len(shards))
        try:
            with safe_open(shard.path, "pt") as file:
                for name in shard.tensors:
                    is_wanted = name in stored.needed or name in stored.allowed or name == HEAD
                    if is_wanted and (part := split.of_tensor(name)) is not None:
                        tensor = file.get_slice(name)[part] if part else file.get_tensor(name)
                        weights[name] = tensor.to(tensor.dtype if stored.is_packed(name) else dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{shard.path.name} cannot be read: {error}") from error
    head = weights.pop(HEAD, None) if spec.tied_embeddings else None
    if head is not None and not torch.equal(head, weights[EMBEDDING][split.vocab]):
        raise ConfigError(f"{HEAD} differs from {EMBEDDING} although tie_word_embeddings is true")
    for name in stored.allowed:
        if name.endswith(".bias") and name in weights and weights.pop(name).any():
            raise ConfigError(f"tensor {name} is not zero, and {spec.architecture} has no such bias")
    if isinstance(spec.matrices, FourBitSpec):
        return FourBitWeights(weights, spec.matrices, dtype)
    if isinstance(spec.matrices, EightBitSpec):
        unscale(weights, dtype)
    return weights


def check_weights(path: Path, spec: ModelSpec) -> list[Shard]:
    """The folder's files with weights, of which no more is read than their headers. Raises ConfigError like
    `load_weights`, for what their headers tell."""
    shards = open_shards(path)
    _check(shards, _Stored.of(spec), spec)
    return shards


def model_revision(folder: ModelFolder) -> str:
    """Names the weights: a digest of the config, of every header and of a few bytes of every tensor."""
    digest = hashlib.sha256(json.dumps(folder.config, sort_keys=True).encode())
    for shard in open_shards(folder.path):
        digest.update(shard.header)
        with shard.path.open("rb") as file:
            for tensor in shard.tensors.values():
                # Fine-tunes of one model share their headers, so the data must count too.
                file.seek(max(tensor.begin, (tensor.begin + tensor.end - _SAMPLE_BYTES) // 2))
                digest.update(file.read(min(_SAMPLE_BYTES, tensor.end - tensor.begin)))
    return digest.hexdigest()[:16]


def open_shards(path: Path) -> list[Shard]:
    """The safetensors files of a folder, in name order; each tensor is in exactly one of them."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConfigError(f"{index.name} has no weight_map")
        shards = [Shard.open(path / name) for name in _names(weight_map, index.name)]
    elif (path / "model.safetensors").exists():
        return [Shard.open(path / "model.safetensors")]
    else:
        pickled = sorted(file.name for file in path.glob("*.bin"))
        found = f"; {', '.join(pickled)} may run code when loaded and is not read" if pickled else ""
        raise ConfigError(f"{path} has no model.safetensors: weights are read from safetensors only{found}")
    held = {name: shard.path.name for shard in shards for name in shard.tensors}
    for name, file in weight_map.items():
        if held.get(name) != file:
            raise ConfigError(f"tensor {name} is not in {file}, where {index.name} puts it")
    return shards


def _names(weight_map: Mapping[str, object], index: str) -> list[str]:
    """The files that an index names, each of which is in the same folder."""
    names: set[str] = set()
    for name in weight_map.values():
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or Path(name).name != name:
            raise ConfigError(f"{index} names {str(name)[:100]!r}, which is no file beside it")
        names.add(name)
    return sorted(names)


@dataclass(frozen=True, slots=True)
class _Stored:
    """The tensors of a checkpoint by name, with their shapes."""

    needed: Mapping[str, tuple[int, ...]]
    allowed: Mapping[str, tuple[int, ...]]
    """May be there, too"""

    @classmethod
    def of(cls, spec: ModelSpec) -> "_Stored":
        shapes = expected_shapes(spec)
        if spec.matrices is None:
            return cls(shapes, {})
        needed: dict[str, tuple[int, ...]] = {}
        allowed: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes.items():
            if not name.startswith("model.layers.") or len(shape) != 2:
                needed[name] = shape
            elif isinstance(spec.matrices, FourBitSpec):
                needed |= packed_shapes(name, shape, spec.matrices)
                allowed |= optional_shapes(name, shape, spec.matrices)
            else:
                needed |= scaled_shapes(name, shape, spec.matrices)
        return cls(needed, {name: shape for name, shape in allowed.items() if name not in needed})

    def is_packed(self, name: str) -> bool:
        """Whether the tensor is a part of a matrix that is not stored as numbers of one type."""
        return is_part(name) or name.endswith(f".weight{SCALE}") or f"{name}{SCALE}" in self.needed

    def dtypes(self, name: str, spec: ModelSpec) -> frozenset[str]:
        """Of which it must be one."""
        if is_int32(name):
            return frozenset({"I32"})
        if isinstance(spec.matrices, EightBitSpec) and f"{name}{SCALE}" in self.needed:
            return frozenset({"F8_E4M3" if spec.matrices.is_float else "I8"})
        return _DTYPES


def _check(shards: list[Shard], stored: _Stored, spec: ModelSpec) -> None:
    found = {name: entry for shard in shards for name, entry in shard.tensors.items()}
    if missing := sorted(stored.needed.keys() - found.keys()):
        raise ConfigError(f"the checkpoint lacks tensor {_some(missing)}")
    known = stored.needed.keys() | stored.allowed.keys() | ({HEAD} if spec.tied_embeddings else set())
    unexpected = sorted(name for name in found.keys() - known if not name.endswith("rotary_emb.inv_freq"))
    if unexpected:
        raise ConfigError(f"the checkpoint holds tensor {_some(unexpected)}, which {spec.architecture} does not have")
    for name, shape in (*stored.needed.items(), *stored.allowed.items()):
        if (entry := found.get(name)) is None:
            continue
        if entry.shape != shape:
            raise ConfigError(f"tensor {name} has shape {list(entry.shape)}, the config asks for {list(shape)}")
        dtypes = stored.dtypes(name, spec)
        if entry.dtype not in dtypes:
            raise ConfigError(f"tensor {name} is {entry.dtype}; supported: {', '.join(sorted(dtypes))}")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _tensor_entry(entry: dict[str, object], data_start: int) -> TensorEntry:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        raise TypeError("a tensor entry has fields of the wrong type")
    return TensorEntry(dtype, tuple(int(n) for n in shape), data_start + int(offsets[0]), data_start + int(offsets[1]))


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold an object")
    return values


def _token_ids(value: object) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise ConfigError(f"eos_token_id is {value!r}, expected a token id or a list of them", field="eos_token_id")
    return tuple(ids)
