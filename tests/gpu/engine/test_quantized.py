"""Quantized products in the GPU's engine, with the demonstration model, which is a trained one: near to float32 where
they round, and the CPU's where they do not."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from engine.checkpoint import ModelFolder, load_weights
from engine.errors import ConfigError
from engine.gpu.cache import GpuCache
from engine.gpu.decoder import GpuDecoder
from engine.gpu.linear import EightBitLinear
from engine.gpu.runner import GpuRunner, StepLimits
from engine.hub import DEMO_MODEL
from engine.models.families import model_spec
from engine.sequence import Sequence
from tests.four_bit import AWQ_CONFIG, GPTQ_CONFIG, write_packed
from tests.gpu.engine.models import MAX_CONTEXT, NUM_BLOCKS, Engines, scattered
from tests.reference import sequence_of

TEXT = """A prefill worker computes the keys and values of a prompt and sends them to a decode worker, which holds a
ticket for the room they need. The decode worker then computes one token after another for many requests at once. A
prompt that is long does not stall the streams of others, because it is computed elsewhere. The router chooses the
worker whose queue is shortest, and a request that cannot be answered in time is refused with the reason."""
PROMPT_TOKENS, NUM_SEQUENCES = 8, 8
LIMITS = StepLimits(NUM_SEQUENCES, NUM_SEQUENCES * PROMPT_TOKENS)


def windows() -> list[Sequence]:
    """Pieces of the text, which begin at different words."""
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    tokens = tokenizer.encode(TEXT).ids
    stride = (len(tokens) - PROMPT_TOKENS) // NUM_SEQUENCES
    assert stride > 0
    sequences = [
        sequence_of(str(index), tokens[index * stride : index * stride + PROMPT_TOKENS])
        for index in range(NUM_SEQUENCES)
    ]
    scattered(sequences, 1)
    return sequences


def compared(engines: Engines) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both engines: behind each piece, and behind the token that the CPU's finds likely then."""
    sequences = windows()
    found, expected = [], []
    for num_tokens in (PROMPT_TOKENS, 1):
        batch = engines.batch(*((sequence, num_tokens) for sequence in sequences))
        found.append(engines.gpu(batch).cpu().clone())
        expected.append(engines.cpu(batch).clone())
        for sequence, row in zip(sequences, expected[-1], strict=True):
            sequence.append(int(row.argmax()))
    return torch.cat(found), torch.cat(expected)


def engines_of(path: Path, *, quantized: torch.dtype | None = None, gpu_path: Path | None = None) -> Engines:
    """The CPU's always in float32; the GPU's may be of another folder."""
    folder = ModelFolder.open(path)
    spec = model_spec(folder.config)
    with torch.device("cpu"):
        weights = load_weights(folder, spec, torch.float32)
    engines = Engines.of(spec, weights=weights, limits=LIMITS, quantized=quantized)
    return engines if gpu_path is None else Engines(engines.cpu, gpu_runner(gpu_path, quantized))


def gpu_runner(path: Path, quantized: torch.dtype | None = None) -> GpuRunner:
    folder, device = ModelFolder.open(path), torch.get_default_device()
    spec = model_spec(folder.config)
    with torch.device("cpu"):
        weights = load_weights(folder, spec, torch.float32)
    decoder = GpuDecoder(spec, weights, MAX_CONTEXT, device=device, dtype=torch.float32, quantized=quantized)
    return GpuRunner(decoder, GpuCache(spec, NUM_BLOCKS, 16, device, torch.float32), LIMITS)


def write(folder: Path, group: int, **config: object) -> None:
    """The demonstration model in four bits, as `packed`, and what that stands for, as `dense`."""
    with torch.device("cpu"):
        write_packed(DEMO_MODEL, folder / "packed", folder / "dense", group, **config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantized", "least_cosine", "least_agreement"), [(torch.int8, 0.996, 0.87), (torch.float8_e4m3fn, 0.99, 0.74)]
)
def test_logits_of_eight_bits_are_near_to_float32(
    quantized: torch.dtype, least_cosine: float, least_agreement: float
) -> None:
    found, expected = compared(engines_of(DEMO_MODEL, quantized=quantized))

    cosines = torch.cosine_similarity(found, expected)
    agreement = (found.argmax(1) == expected.argmax(1)).float().mean()
    assert cosines.min() > least_cosine
    assert agreement > least_agreement


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(AWQ_CONFIG, id="awq", marks=pytest.mark.slow),
        pytest.param({**GPTQ_CONFIG, "desc_act": True}, id="gptq-act-order", marks=pytest.mark.slow),
    ],
)
def test_logits_of_four_bits_are_those_of_the_cpu(tmp_path: Path, config: dict[str, object]) -> None:
    write(tmp_path, 64, **config)

    found, expected = compared(engines_of(tmp_path / "dense", gpu_path=tmp_path / "packed"))

    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_int8_of_four_bits_is_that_of_their_float32_selves(tmp_path: Path) -> None:
    write(tmp_path, 64, **{**GPTQ_CONFIG, "desc_act": True})

    packed, dense = (gpu_runner(tmp_path / name, torch.int8).decoder.layers[-1].down for name in ("packed", "dense"))

    assert isinstance(packed, EightBitLinear)
    assert isinstance(dense, EightBitLinear)
    assert torch.equal(packed.weight, dense.weight)
    assert torch.equal(packed.scales, dense.scales)


def test_a_group_that_no_product_takes_is_refused_with_its_tensor(tmp_path: Path) -> None:
    write(tmp_path, 16, **AWQ_CONFIG)

    with pytest.raises(ConfigError, match=r"model\.layers\.0\.self_attn\.q_proj: a group of 16 inputs"):
        gpu_runner(tmp_path / "packed")
