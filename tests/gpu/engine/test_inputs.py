"""Where a step's numbers lie, and how they are padded; buckets, and how graphs fall back to calls."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.batch import Batch, Chunk
from engine.gpu.graphs import DecodeGraphs, Step, buckets_up_to
from engine.gpu.inputs import InputBuffer, Sizes
from engine.gpu.packed import Packed, to_device
from tests.reference import sequence_of


def batch_of(lengths: list[int]) -> Batch:
    chunks = []
    for index, length in enumerate(lengths):
        sequence = sequence_of(str(index), range(length))
        sequence.blocks.extend(range(1 + 4 * index, 5 + 4 * index))
        chunks.append(Chunk(sequence, length - 1, length))
    return Batch.build(chunks, 8)


def test_a_decode_batch_is_padded_with_rows_that_attend_to_nothing_and_store_nowhere() -> None:
    batch, device = batch_of([9, 3, 20]), torch.get_default_device()
    sizes = Sizes.of_decode(4, 6)
    buffer = InputBuffer(sizes.num_items, device)
    captured = buffer.inputs(sizes)  # as a graph has them: made before

    buffer.fill(sizes, batch)

    assert captured.token_ids.tolist() == [8, 2, 19, 0]
    assert captured.positions.tolist() == [8, 2, 19, 0]
    assert captured.slots.tolist() == [16, 42, 91, -1]
    assert captured.context_lens.tolist() == [9, 3, 20, 0]
    assert captured.query_starts.tolist() == [0, 1, 2, 3, 3]
    assert captured.block_tables[:3, :3].tolist() == batch.block_tables.tolist()
    assert captured.block_tables.shape == (4, 6)
    assert captured.kept_rows is None
    assert captured.num_decode == 4


def test_a_cleared_buffer_attends_to_nothing_whatever_the_sizes() -> None:
    buffer = InputBuffer(Sizes.of_decode(8, 6).num_items, torch.get_default_device())
    buffer.fill(Sizes.of_decode(3, 6), batch_of([9, 3, 20]))

    buffer.clear()

    assert not buffer.inputs(Sizes.of_decode(8, 6)).context_lens.any()


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_parts_begin_at_16_bytes_and_do_not_overlap(rows: int, blocks: int, samples: int, tiles: int) -> None:
    sizes = Sizes(rows, min(rows, 5), 1, blocks, samples, tiles=tiles)
    inputs = InputBuffer(sizes.num_items, torch.device("cpu")).inputs(sizes)
    assert inputs.kept_rows is not None
    parts = [inputs.token_ids, inputs.positions, inputs.slots, inputs.query_starts, inputs.context_lens]
    parts += [inputs.kept_rows, inputs.tiles, inputs.block_tables]
    offsets = [part.storage_offset() for part in parts]

    assert all(offset % 4 == 0 for offset in offsets)
    ends = [offset + part.numel() for offset, part in zip(offsets, parts, strict=True)]
    assert all(end <= following for end, following in zip(ends, offsets[1:], strict=False))
    assert ends[-1] <= sizes.num_items


def test_packed_tensors_are_one_run_of_bytes() -> None:
    arrays = [torch.tensor([1.5, 2.5], device="cpu").numpy(), torch.arange(3, device="cpu").numpy()]

    floats, integers = to_device(arrays, torch.device("cpu"))

    assert floats.tolist() == [1.5, 2.5]
    assert integers.tolist() == [0, 1, 2]
    assert integers.data_ptr() - floats.data_ptr() == 16
    assert Packed([((0,), torch.int64)], torch.device("cpu")).tensors[0].shape == (0,)


@given(st.integers(1, 300))
def test_every_number_of_rows_has_a_bucket_that_is_not_much_larger(rows: int) -> None:
    graphs = DecodeGraphs(lambda _: {"so": torch.zeros}, 300, torch.device("cpu"))

    bucket = graphs.bucket(rows)

    assert rows <= bucket < max(2 * rows, rows + 16)
    assert len(graphs(bucket)) == bucket


def test_buckets_end_where_the_largest_batch_fits() -> None:
    assert buckets_up_to(1) == (1,)
    assert buckets_up_to(6) == (1, 2, 4, 8)
    assert buckets_up_to(64) == (1, 2, 4, 8, 16, 32, 48, 64)


def test_where_there_is_no_cuda_every_bucket_is_run_once_and_later_called_in_the_first_way() -> None:
    called: list[tuple[str, int]] = []

    def way(name: str) -> Step:
        def step(bucket: int) -> torch.Tensor:
            called.append((name, bucket))
            return torch.zeros(bucket)

        return step

    def ways(bucket: int) -> dict[str, Step]:
        return {name: way(name) for name in ("plain", "thin")}

    graphs = DecodeGraphs(ways, 5, torch.device("cpu"))
    graphs.capture()
    graphs(2)

    assert called == [("plain", bucket) for bucket in (8, 4, 2, 1, 2)]
