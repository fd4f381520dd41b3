"""Small random models of shapes that the GPU's kernels take, on both engines."""

from array import array
from dataclasses import dataclass

import torch

from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import Weights
from engine.gpu.cache import GpuCache
from engine.gpu.decoder import GpuDecoder
from engine.gpu.runner import GpuRunner, StepLimits
from engine.models.decoder import Decoder
from engine.models.spec import ModelSpec, RopeSpec
from engine.models.tensors import expected_shapes
from engine.runner import Runner
from engine.sequence import Sequence

LIMITS = StepLimits(max_sequences=6, max_step_tokens=48)
MAX_CONTEXT = 320
NUM_BLOCKS = 64


def spec_of(**fields: object) -> ModelSpec:
    """Llama-shaped, two layers, two query heads to a KV head."""
    plain: dict[str, object] = {
        "architecture": "LlamaForCausalLM",
        "vocab_size": 211,
        "hidden_size": 96,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 64,
        "mlp_size": 160,
        "rms_eps": 1e-5,
        "rope": RopeSpec(theta=1e4),
        "max_context": MAX_CONTEXT,
    }
    return ModelSpec(**{**plain, **fields})  # type: ignore[arg-type]


def weights_of(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """The same for the same spec."""
    generator = torch.Generator(device="cpu").manual_seed(1)
    weights = {}
    for name, shape in expected_shapes(spec).items():
        noise = torch.randn(shape, generator=generator, device="cpu")
        weights[name] = 1 + 0.3 * noise if "norm" in name else 0.15 * noise
    return weights


class CpuRunner(Runner):
    """Makes its tensors on the CPU, whatever the tests' device."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        with torch.device("cpu"):
            return super().__call__(batch)


@dataclass(frozen=True)
class Engines:
    """The same model on both."""

    cpu: Runner
    gpu: GpuRunner

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        *,
        weights: Weights | None = None,
        block_tokens: int = 16,
        dtype: torch.dtype = torch.float32,
        limits: StepLimits = LIMITS,
        quantized: torch.dtype | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> "Engines":
        device = torch.get_default_device()
        weights = weights or weights_of(spec)
        gpu = GpuDecoder(spec, dict(weights), MAX_CONTEXT, device=device, dtype=dtype, quantized=quantized)
        gpu_cache = GpuCache(spec, NUM_BLOCKS, block_tokens, device, kv_dtype or dtype)
        with torch.device("cpu"):
            cpu = CpuRunner(Decoder(spec, dict(weights), MAX_CONTEXT), KVCache(spec, NUM_BLOCKS, block_tokens))
        return cls(cpu, GpuRunner(gpu, gpu_cache, limits))

    def batch(self, *chunks: tuple[Sequence, int]) -> Batch:
        """The next so many tokens of each sequence."""
        planned = []
        for sequence, num_tokens in chunks:
            planned.append(Chunk(sequence, sequence.num_computed, sequence.num_computed + num_tokens))
            sequence.num_computed += num_tokens
        return Batch.build(planned, self.cpu.cache.block_tokens)


def grow(chunks: list[tuple[Sequence, int]]) -> None:
    """Append what sequences lack for so many tokens more to be computed."""
    for sequence, num_tokens in chunks:
        while len(sequence.tokens) < sequence.num_computed + num_tokens:
            sequence.append(len(sequence.tokens) % 211)


def scattered(sequences: list[Sequence], num_blocks: int) -> None:
    """Give each sequence so many blocks, in a scattered order, block 0 to nobody."""
    generator = torch.Generator(device="cpu").manual_seed(2)
    order = (torch.randperm(NUM_BLOCKS - 1, generator=generator, device="cpu") + 1).tolist()
    for index, sequence in enumerate(sequences):
        sequence.blocks = array("i", order[index * num_blocks : (index + 1) * num_blocks])
