"""How a model's prompts become vectors, and their length; and that no decode worker has a part in it."""

import asyncio
import json
import math
import struct
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.hub import DEMO_MODEL
from engine.pooling import Pooling
from frontend.embedding import embedding_request, floats, packed, pooling_of, unit
from frontend.events import Delta
from frontend.request import GenerateRequest
from tests.cluster import cluster


def model_that_says(folder: Path, **modes: object) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **modes}))
    return folder


def test_a_model_that_does_not_say_is_pooled_over_all_tokens(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) is Pooling.MEAN


def test_a_model_says_how_it_is_pooled_and_the_operator_knows_better(tmp_path: Path) -> None:
    folder = model_that_says(tmp_path, pooling_mode_cls_token=False, pooling_mode_lasttoken=True)
    assert pooling_of(folder) is Pooling.LAST
    assert pooling_of(folder, "mean") is Pooling.MEAN


@pytest.mark.parametrize(
    "modes", [{"pooling_mode_cls_token": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}]
)
def test_what_we_cannot_pool_is_refused_by_name(tmp_path: Path, modes: dict[str, bool]) -> None:
    folder = model_that_says(tmp_path, **modes)
    with pytest.raises(ConfigError, match=next(iter(modes)).removeprefix("pooling_mode_")):
        pooling_of(folder)
    assert pooling_of(folder, "last") is Pooling.LAST


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_a_unit_vector_has_length_one_and_the_same_direction(values: list[float]) -> None:
    vector = struct.pack(f"<{len(values)}f", *values)
    length = math.hypot(*values)
    assert packed(floats(vector)) == vector
    scaled = unit(floats(vector))
    if not length:
        assert scaled.tolist() == values
    else:
        assert math.hypot(*scaled) == pytest.approx(1, rel=1e-5)
        assert scaled.tolist() == pytest.approx([value / length for value in values], rel=1e-5, abs=1e-30)


async def test_a_full_decode_side_does_not_delay_a_vector() -> None:
    long = GenerateRequest(prompt="Once", max_tokens=2_000, ignore_eos=True)
    async with cluster(DEMO_MODEL, worker={"max_sequences": 1}) as running:
        wanted = embedding_request("What is a KV cache?", None, Pooling.MEAN)
        expected = (await running.complete(wanted)).finished.vector
        async with aclosing(running.inference.generate(long)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
            waiting = asyncio.create_task(running.complete(GenerateRequest(prompt="Twice", max_tokens=2)))
            while not running.inference.queued_requests:
                await running.fleet.pulse.wait()
            assert (await running.complete(wanted)).finished.vector == expected
            assert running.inference.queued_requests == 1, "for the decode worker's only place"
        assert len((await waiting).token_ids) == 2
