"""The engine in a model's shape: its runner with a graph for every bucket, its pool and its sampler, as a worker opens
them, on random weights.
"""

from array import array
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass

import torch

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.shapes import Shape
from engine.batch import Batch, Chunk
from engine.gpu.cache import GpuCache
from engine.gpu.decoder import GpuDecoder
from engine.gpu.launch import GpuLaunch
from engine.gpu.runner import GpuRunner, StepLimits
from engine.gpu.sampler import GpuSampler
from engine.models.spec import ModelSpec, RopeSpec
from engine.models.tensors import EMBEDDING, HEAD, expected_shapes
from engine.sequence import SamplingParams, SequenceId
from engine.sequence import Sequence as Answer

BLOCK_TOKENS = 16
_PEAK = 5.0
"""Standard deviation of the logits: some hundred tokens are likely, as in a trained model."""
_ENDLESS = 1 << 30


class RandomWeights(MutableMapping[str, torch.Tensor]):
    """A checkpoint's tensors by name, each made on the device when it is taken out: no model is held twice."""

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
        self._shapes = expected_shapes(spec)
        self._head = EMBEDDING if spec.tied_embeddings else HEAD
        self._device, self._dtype = device, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        if len(shape) == 1:  # of a norm
            return tensor.fill_(1)
        return tensor.normal_(0, (_PEAK if name == self._head else 1.0) * shape[1] ** -0.5)

    def __setitem__(self, name: str, tensor: torch.Tensor) -> None:
        raise TypeError("random weights are what they are")

    def __delitem__(self, name: str) -> None:
        del self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@dataclass(frozen=True, slots=True)
class InFloat8:
    """What of a model is float8 e4m3; the rest is of its own type."""

    weights: bool = False
    """Of the layers"""
    kv: bool = False

    def step_bytes(self, shape: Shape, num_positions: float) -> float:
        """That a step reads: weights, and the KV of so many positions."""
        weights = shape.eight_bit_step_weight_bytes if self.weights else shape.step_weight_bytes
        return weights + num_positions * self.position_bytes(shape)

    def position_bytes(self, shape: Shape) -> int:
        """Of KV in all layers."""
        return shape.position_bytes // (2 if self.kv else 1)


NOTHING = InFloat8()


@dataclass(frozen=True, slots=True)
class Room:
    """What an engine is opened for."""

    sequences: int
    prompt_tokens: int
    """Of one step"""
    context: int
    """Positions of one sequence at most"""
    blocks: int

    def size_bytes(self, shape: Shape, in_float8: InFloat8) -> int:
        """Of weights and pool; a step's buffers are not in it."""
        pool = self.blocks * BLOCK_TOKENS * in_float8.position_bytes(shape)
        return pool + (shape.eight_bit_weight_bytes if in_float8.weights else shape.weight_bytes)


def blocks_of(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_TOKENS)


class Engine:
    """A model opened, compiled and captured."""

    def __init__(self, bench: Bench, shape: Shape, room: Room, in_float8: InFloat8 = NOTHING) -> None:
        self.shape, self.in_float8, self.room = shape, in_float8, room
        device = bench.device
        dtype = torch.float16 if device.type == "cpu" else torch.bfloat16  # Triton's interpreter multiplies no bfloat16
        spec = _spec(shape, room.context)
        weights = RandomWeights(spec, device, dtype)
        quantized = torch.float8_e4m3fn if in_float8.weights else None
        decoder = GpuDecoder(spec, weights, room.context, device=device, dtype=dtype, quantized=quantized)
        pool = GpuCache(spec, room.blocks, BLOCK_TOKENS, device, torch.float8_e4m3fn if in_float8.kv else dtype)
        self.runner = GpuRunner(decoder, pool, StepLimits(room.sequences, room.prompt_tokens))
        self.runner.warm_up()
        self.sampler = GpuSampler(spec.vocab_size, room.sequences, device)
        self.sampler.warm_up()
        self.launch = GpuLaunch(self.runner, self.sampler)
        for layer in range(spec.num_layers):
            there = pool.pool[:, layer]
            there.copy_(torch.randn(there.shape, dtype=dtype, device=device))

    def sequence(self, name: str, num_tokens: int, *, answers: int = _ENDLESS) -> Answer:
        """Of random tokens, drawn as most clients have it; it has no blocks yet."""
        # On the host: a GPU would be waited for, with the step that is on it.
        tokens = torch.randint(0, self.shape.vocab_size, (num_tokens,), device="cpu").tolist()
        seed = int(torch.randint(0, 1 << 31, (), device="cpu"))
        params = SamplingParams(max_tokens=answers, seed=seed, temperature=0.8, top_p=0.95)
        return Answer.of(SequenceId(name), tokens, params)

    def logits(self, sequence: Answer, start: int, end: int) -> torch.Tensor:
        """Of the position before `end`, computing from `start` on."""
        return self.runner(Batch.build([Chunk(sequence, start, end)], BLOCK_TOKENS))


def with_blocks(sequence: Answer, blocks: Iterable[int]) -> Answer:
    sequence.blocks = array("i", blocks)
    return sequence


def _spec(shape: Shape, max_context: int) -> ModelSpec:
    return ModelSpec(
        architecture="LlamaForCausalLM",
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        mlp_size=shape.mlp_size,
        rms_eps=1e-5,
        rope=RopeSpec(theta=500_000.0),
        max_context=max_context,
        tied_embeddings=shape.tied_embeddings,
    )
