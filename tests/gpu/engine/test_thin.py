"""A decode step by thin products is the step that it stands for, and is there where it can be."""

import pytest
import torch

from engine.gpu.decoder import GpuDecoder
from engine.gpu.runner import StepLimits
from engine.gpu.thin import ThinStep
from engine.models.spec import ModelSpec
from tests.gpu.engine.models import MAX_CONTEXT, Engines, grow, scattered, spec_of, weights_of
from tests.reference import sequence_of

SPECS = {
    "llama": spec_of(),
    "biases": spec_of(tied_embeddings=True, qkv_bias=True, output_bias=True, mlp_bias=True),
    "head-norms": spec_of(qk_norm=True, sliding_window=7, sliding_layers=frozenset({1})),
    "one-layer": spec_of(num_layers=1),
}
THIN = ("thin products", "thin products in wider tiles")


@pytest.mark.parametrize(("name", "way"), [*((name, THIN[0]) for name in SPECS), ("llama", THIN[1])])
def test_steps_agree_with_those_of_torchs_products_and_with_the_cpu(name: str, way: str) -> None:
    limits = StepLimits(max_sequences=3, max_step_tokens=48)
    plain, thin = (Engines.of(SPECS[name], dtype=torch.float16, limits=limits) for _ in range(2))
    for bucket in thin.gpu.graphs.buckets:
        assert thin.gpu.graphs.chosen[bucket] not in THIN, "the first where nothing is timed"
        thin.gpu.graphs.chosen[bucket] = way
    sequences = [sequence_of(str(length), list(range(5, 5 + length))) for length in (21, 10, 9)]
    scattered(sequences, 3)
    a, b, c = sequences
    for chunks in ([(a, 21), (b, 10), (c, 9)], [(a, 1), (b, 1), (c, 1)], [(b, 1)], [(b, 1), (c, 1)]):
        grow(chunks)
        batch = plain.batch(*chunks)

        here, there, exact = thin.gpu(batch).clone(), plain.gpu(batch), plain.cpu(batch)

        torch.testing.assert_close(here.cpu(), exact, atol=0.03, rtol=0)
        error = (here.cpu() - exact).norm() / exact.norm()
        assert error < 2 * (there.cpu() - exact).norm() / exact.norm() + 1e-4
    torch.testing.assert_close(thin.gpu.cache.pool, plain.gpu.cache.pool, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("fields", "is_there"),
    [
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.bfloat16}, True),
        ({"dtype": torch.float32}, False),
        ({"dtype": torch.float16, "quantized": torch.int8}, False),
    ],
)
def test_it_is_there_where_products_are_of_sixteen_bits(fields: dict[str, torch.dtype], is_there: bool) -> None:
    spec: ModelSpec = spec_of(num_layers=1)
    decoder = GpuDecoder(spec, weights_of(spec), MAX_CONTEXT, device=torch.get_default_device(), **fields)

    assert tuple(ThinStep.all_of(decoder)) == (THIN if is_there else ())


def test_more_rows_than_it_takes_are_left_to_torchs_products() -> None:
    engines = Engines.of(spec_of(num_layers=1), dtype=torch.float16, limits=StepLimits(40, 48))
    graphs = engines.gpu.graphs

    by_thin = {bucket for bucket in graphs.buckets if len(graphs.ways(bucket)) > 1}

    assert by_thin == {1, 2, 4, 8, 16}
