"""Opens the model of a worker on its device: weights, KV pool, and the identity that follows from them."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from engine.cache import KVCache, block_size_bytes, layout_fingerprint
from engine.checkpoint import ModelFolder, model_revision
from engine.config import WorkerConfig
from engine.cpus import pin
from engine.errors import ConfigError
from engine.hub import model_name, resolve_model
from engine.identity import Identity, board_name, default_worker_id, new_incarnation
from engine.lending import with_borrowed
from engine.models.families import model_spec
from engine.profile import Limits, measure
from engine.runner import Runner, load_decoder
from engine.sampler import Sampler
from engine.shared_memory import SharedMemory, can_share_memory
from engine.turn import Turn
from protos import worker_pb2 as pb

log = logging.getLogger(__name__)

MIB = 2**20


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready to compute."""

    runner: Runner
    sampler: Sampler
    cache: KVCache
    who: Identity
    shared: SharedMemory | None = None
    """What the pool lives in, if another process may map it."""


def open_model(config: WorkerConfig, role: "pb.Role") -> OpenModel:
    """Load, size the pool, compile and try out. Raises ConfigError with the arithmetic when it cannot fit."""
    num_cpus = pin(config.cpus)
    if num_threads := config.threads or num_cpus:
        torch.set_num_threads(num_threads)  # and Numba's, which follows torch
    if config.niceness:
        os.nice(config.niceness)
    # On a thread that ends, and OpenMP's threads of it with it. Were they left asleep, OpenMP would count more threads
    # than cores, and those of the step loop would sleep, not spin, between the hundred parallel parts of a step.
    with ThreadPoolExecutor(1, thread_name_prefix="open-model") as thread:
        return thread.submit(_open_model, config, role).result()


def _open_model(config: WorkerConfig, role: "pb.Role") -> OpenModel:
    folder = ModelFolder.open(resolve_model(config.model))
    spec = model_spec(folder.config)
    block_bytes = block_size_bytes(spec, config.block_tokens, config.kv_cache_dtype)
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
    with Turn() as turn:
        decoder = load_decoder(folder, config.dtype, max_context, quantize=config.quantization == "int8")
        shared = _share(config, role, num_blocks * block_bytes)
        buffer = shared.buffer if shared else None
        cache = KVCache(spec, num_blocks, config.block_tokens, buffer, dtype=config.kv_cache_dtype)
        runner, sampler = Runner(decoder, cache), Sampler()
        runner.warm_up()
        sampler.warm_up()
        limits = Limits(max_context, config.max_step_tokens, config.max_sequences)
        costs = own_costs = None
        if config.profile_s:
            turn.wait()
            with with_borrowed(config):
                costs = measure(runner, sampler, limits, config.profile_s)
            if config.borrow_cpus:
                own_costs = measure(runner, sampler, limits, config.profile_s)
    log.info(
        "model ready in %.1f s: %d KV blocks, %d MiB", time.monotonic() - began, num_blocks, cache.size_bytes // MIB
    )
    name = "prefill" if role == pb.ROLE_PREFILL else "decode"
    who = Identity(
        worker_id=config.worker_id or default_worker_id(name),
        role=role,
        model=model_name(config.model, config.served_model_name),
        layout=layout_fingerprint(model_revision(folder), spec, config.block_tokens, dtype=config.kv_cache_dtype),
        num_blocks=num_blocks,
        block_tokens=config.block_tokens,
        block_bytes=block_bytes,
        vocab_size=spec.vocab_size,
        max_context=max_context,
        max_sequences=config.max_sequences,
        lease_s=config.lease_s,
        incarnation=new_incarnation(),
        max_step_tokens=config.max_step_tokens,
        costs=costs,
        own_costs=own_costs,
        cpu_board=board_name(config.cpu_board),
    )
    return OpenModel(runner, sampler, cache, who, shared)


def _share(config: WorkerConfig, role: "pb.Role", size_bytes: int) -> SharedMemory | None:
    """Memory for a pool that decode workers copy out of, where there is such a thing."""
    if role != pb.ROLE_PREFILL or config.shared_memory == "off" or not can_share_memory():
        return None
    try:
        return SharedMemory(size_bytes)
    except ConfigError as error:
        log.warning("%s; blocks will travel through sockets", error.message)
        return None
