"""Opens the model of a worker on its device: weights, KV pool, and the identity that follows from them."""

import logging
import os
import time
from dataclasses import dataclass

import torch

from engine.cache import KVCache, block_size_bytes, layout_fingerprint
from engine.checkpoint import ModelFolder, model_revision
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.hub import model_name, resolve_model
from engine.identity import Identity, default_worker_id, new_incarnation
from engine.models.families import model_spec
from engine.runner import Runner, load_decoder
from engine.sampler import Sampler
from protos import worker_pb2 as pb

log = logging.getLogger(__name__)

MIB = 2**20


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready to compute."""

    runner: Runner
    sampler: Sampler
    cache: KVCache
    device: torch.device
    who: Identity


def open_model(config: WorkerConfig, role: "pb.Role") -> OpenModel:
    """Load, size the pool, compile and try out. Raises ConfigError with the arithmetic when it cannot fit."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.niceness:
        os.nice(config.niceness)
    folder = ModelFolder.open(resolve_model(config.model))
    spec = model_spec(folder.config)
    block_bytes = block_size_bytes(spec, config.block_tokens)
    num_blocks = config.num_blocks or config.kv_memory_mb * MIB // block_bytes
    capacity = num_blocks * config.block_tokens
    if config.max_context > min(spec.max_context, capacity) or capacity < 2:
        raise ConfigError(
            f"a context of {config.max_context or 2} tokens does not fit: the model's is {spec.max_context}, and "
            f"{num_blocks} KV blocks of {config.block_tokens} tokens ({block_bytes} bytes each) hold {capacity}",
            field="max_context",
        )
    max_context = config.max_context or min(spec.max_context, capacity)
    began = time.monotonic()
    decoder = load_decoder(folder, config.dtype, max_context)
    cache = KVCache(spec, num_blocks, config.block_tokens)
    runner, sampler = Runner(decoder, cache), Sampler()
    runner.warm_up()
    sampler.warm_up()
    log.info(
        "model ready in %.1f s: %d KV blocks, %d MiB", time.monotonic() - began, num_blocks, cache.size_bytes // MIB
    )
    name = "prefill" if role == pb.ROLE_PREFILL else "decode"
    who = Identity(
        worker_id=config.worker_id or default_worker_id(name),
        role=role,
        model=model_name(config.model, config.served_model_name),
        layout=layout_fingerprint(model_revision(folder), spec, config.block_tokens),
        num_blocks=num_blocks,
        block_tokens=config.block_tokens,
        block_bytes=block_bytes,
        vocab_size=spec.vocab_size,
        max_context=max_context,
        max_sequences=config.max_sequences,
        lease_s=config.lease_s,
        incarnation=new_incarnation(),
    )
    return OpenModel(runner, sampler, cache, runner.device, who)
