"""A batch lays out chunks as the kernels read them: decode rows first, each token in its own slot."""

import random
from array import array

import pytest

from engine.batch import Batch, Chunk
from engine.sequence import SamplingParams, Sequence, SequenceId

P = 4


def sequence(name: str, num_tokens: int, blocks: list[int]) -> Sequence:
    tokens = [hash((name, i)) % 1000 for i in range(num_tokens)]
    made = Sequence.of(SequenceId(name), tokens, SamplingParams(max_tokens=1, seed=0))
    made.blocks = array("i", blocks)
    return made


def test_a_chunk_and_a_decode_step() -> None:
    long, short = sequence("long", 10, [5, 6, 7]), sequence("short", 3, [2])
    batch = Batch.build([Chunk(long, 2, 7), Chunk(short, 2, 3)], P)

    assert batch.num_decode == 1
    assert batch.token_ids.tolist() == [short.tokens[2], *long.tokens[2:7]]
    assert batch.positions.tolist() == [2, 2, 3, 4, 5, 6]
    assert batch.slots.tolist() == [10, 22, 23, 24, 25, 26]
    assert batch.query_starts.tolist() == [0, 1, 6]
    assert batch.context_lens.tolist() == [3, 7]
    assert batch.block_tables.tolist() == [[2, 0], [5, 6]]
    assert (batch.sample_rows.tolist(), batch.sampled) == ([0], (short,)), "the long one has more to compute"


def test_a_token_that_is_not_known_yet_is_the_one_that_the_step_before_samples() -> None:
    other, ahead, known, long = (sequence(str(n), n, [n, 30 + n]) for n in (2, 5, 3, 6))
    batch = Batch.build([Chunk(long, 0, 4), Chunk(known, 2, 3), Chunk(ahead, 5, 6)], P, before=(other, ahead))

    assert batch.continues is not None
    assert batch.continues.tolist() == [-1, 1, -1, -1, -1, -1]
    assert batch.token_ids.tolist() == [known.tokens[2], 0, *long.tokens[:4]]
    assert batch.positions.tolist() == [2, 5, 0, 1, 2, 3]
    assert batch.slots.tolist() == [14, 35 * P + 1, 24, 25, 26, 27]
    assert (batch.sampled, batch.indices) == ((known, ahead), [0, 1])
    assert batch.continued_samples == [-1, 1]


def test_where_every_token_is_known_nothing_is_taken_from_the_step_before() -> None:
    made = sequence("a", 3, [1])
    batch = Batch.build([Chunk(made, 2, 3)], P, before=(made,))
    assert batch.continues is batch.continued_samples is None


def test_an_empty_batch() -> None:
    batch = Batch.build([], P)
    assert (len(batch.token_ids), batch.num_decode, batch.sampled) == (0, 0, ())


@pytest.mark.parametrize("seed", range(20))
def test_every_token_has_its_position_and_slot(seed: int) -> None:
    rng = random.Random(seed)
    ids = list(range(100))
    rng.shuffle(ids)
    chunks = []
    for number in range(rng.randint(1, 8)):
        num_tokens = rng.randint(1, 20)
        start = rng.randrange(num_tokens)
        made = sequence(str(number), num_tokens, [ids.pop() for _ in range(-(-num_tokens // P))])
        chunks.append(Chunk(made, start, rng.randint(start + 1, num_tokens)))
    batch = Batch.build(chunks, P)

    ordered = sorted(chunks, key=lambda chunk: chunk.num_tokens > 1)
    rows = [(chunk.sequence, position) for chunk in ordered for position in range(chunk.start, chunk.end)]
    assert batch.token_ids.tolist() == [made.tokens[position] for made, position in rows]
    assert batch.slots.tolist() == [made.blocks[position // P] * P + position % P for made, position in rows]
    assert batch.num_decode == sum(chunk.num_tokens == 1 for chunk in chunks)
    samplers = [chunk for chunk in ordered if chunk.end == len(chunk.sequence.tokens)]
    assert batch.sampled == tuple(chunk.sequence for chunk in samplers)
    assert [rows[row] for row in batch.sample_rows.tolist()] == [(c.sequence, c.end - 1) for c in samplers]
