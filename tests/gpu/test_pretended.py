"""The pretended device refuses what CUDA refuses, and shows what CUDA leaves to chance."""

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from tests.gpu.pretend.gpu import MIB, Gpu
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended(total_mib=8, taken_mib=1) as gpu:
        yield gpu


@triton.jit
def _add(x, out, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < count, 0) + count, at < count)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, device=DEVICE)


def test_operations_compute_what_a_cpu_does_on_memory_that_views_share(gpu: Gpu) -> None:
    whole = torch.arange(12, device=DEVICE).view(3, 4)
    whole[1:, ::2] += 100
    whole[0, 1] = -1
    whole[torch.tensor([2], device=DEVICE), 3] = 7
    torch.add(whole[0], 1, out=whole[2])

    assert (whole.device, whole.is_cuda) == (DEVICE, True)
    assert whole.tolist() == [[0, -1, 2, 3], [104, 5, 106, 7], [1, 0, 3, 4]]
    assert whole[whole > 5].tolist() == [104, 106, 7]
    assert [part.tolist() for part in whole.max(1)] == [[3, 106, 4], [3, 2, 3]]


def test_tensors_of_host_and_device_do_not_mix_but_for_single_numbers(gpu: Gpu) -> None:
    with pytest.raises(RuntimeError, match="same device, but found at least two devices, cuda:0 and cpu"):
        _ = ones(2) + torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        torch.mm(ones(2, 2), ones(2, 2), out=torch.ones(2, 2))
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        ones(2).numpy()

    assert (ones(2) + torch.tensor(2.0)).tolist() == [3, 3]


def test_whatever_needs_the_numbers_is_a_wait(gpu: Gpu) -> None:
    there, mask = ones(4), ones(4) > 0
    waiting = [
        lambda: there[0].item(),
        lambda: bool(there[0]),
        lambda: there.tolist(),
        lambda: there.cpu(),
        lambda: there.nonzero(),
        lambda: there[mask],
        lambda: torch.equal(there, there),
        lambda: there.copy_(torch.ones(4), non_blocking=True),
        lambda: torch.empty(4, pin_memory=True).copy_(there),
        lambda: there[torch.tensor([1])],
        torch.cuda.synchronize,
    ]
    for call in waiting:
        with pytest.raises(AssertionError, match=r"the host waited: .* at test_pretended\.py:\d+"), gpu.no_waits():
            call()
    with gpu.no_waits():
        there.copy_(torch.ones(4).pin_memory(), non_blocking=True)
        torch.empty(4, pin_memory=True).copy_(there, non_blocking=True)
        there[ones(1, dtype=torch.int64)] += 1
        there.to("cpu", non_blocking=True)


def test_a_copy_is_there_when_its_event_was_waited_for(gpu: Gpu) -> None:
    here = torch.zeros(3, pin_memory=True)
    here.copy_(2 * ones(3), non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    assert here.isnan().all()
    assert not copied.query()
    copied.synchronize()
    assert here.tolist() == [2, 2, 2]


def test_pinned_memory_is_read_when_the_copy_comes(gpu: Gpu) -> None:
    here = torch.zeros(3, pin_memory=True)
    there = torch.empty(3, device=DEVICE)
    there.copy_(here, non_blocking=True)
    here.fill_(5)

    assert there.tolist() == [5, 5, 5]


def test_a_stream_waits_for_another_if_it_is_told_to(gpu: Gpu) -> None:
    side = torch.cuda.Stream()
    there = ones(2)
    with torch.cuda.stream(side):
        early = there + 1
    side.synchronize()
    assert gpu.default_stream.num_done < gpu.default_stream.num_launched
    there += 1
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        late = there + 1
        assert late.tolist() == [3, 3]
        assert early.isnan().all()


def test_memory_that_a_stream_still_uses_is_not_let_go_of(gpu: Gpu) -> None:
    side = torch.cuda.Stream()
    for is_told in (True, False):
        there = ones(2)
        with torch.cuda.stream(side):
            there.add_(1)
        if is_told:
            there.record_stream(side)
        del there
        assert len(gpu.hazards) == (not is_told)
    assert "add_" in gpu.hazards.pop()


def test_a_graph_does_again_what_was_launched(gpu: Gpu) -> None:
    there, factor = ones(3), 2
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = there * factor
        there.add_(doubled)
    assert doubled.isnan().all()
    assert there.tolist() == [1, 1, 1]
    factor = 50

    graph.replay()
    assert there.tolist() == [3, 3, 3]
    there.fill_(10)
    graph.replay()
    assert (there.tolist(), doubled.tolist()) == ([30, 30, 30], [20, 20, 20])


def test_nothing_is_waited_for_nor_compiled_while_a_graph_is_captured(gpu: Gpu) -> None:
    there = ones(4, dtype=torch.int32)
    for call in (there.tolist, lambda: there.copy_(torch.ones(4)), lambda: _add[(1,)](there, there, 3, BLOCK=4)):
        with (
            pytest.raises(RuntimeError, match=r"not permitted when stream is capturing|compiled while a graph"),
            torch.cuda.graph(torch.cuda.CUDAGraph()),
        ):
            call()


def test_a_graph_keeps_no_memory_that_was_there_before(gpu: Gpu) -> None:
    there, graph = ones(3), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        there.add_(1)
    del there

    with pytest.raises(AssertionError, match="whose memory was given back"):
        graph.replay()


def test_what_a_graph_took_and_gave_back_is_garbage_at_each_replay(gpu: Gpu) -> None:
    there, graph = torch.zeros(2, device=DEVICE), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = torch.empty(2, device=DEVICE)
        there.add_(kept)
        kept.fill_(1)
        del kept
    for _ in range(2):
        graph.replay()
        assert there.isnan().all()
        there.zero_()


def test_kernels_run_late_and_take_memory_of_the_device(gpu: Gpu) -> None:
    x, out = ones(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"Pointer argument \(at 0\) cannot be accessed from Triton"):
        _add[(1,)](torch.ones(3), out, 3, BLOCK=4)

    with gpu.no_waits():
        _add[(1,)](x, out, 3, BLOCK=4)
        x.fill_(7)

    assert out.tolist() == [4, 4, 4]


def test_what_triton_compiles_anew_for_is_told(gpu: Gpu) -> None:
    x = ones(32, dtype=torch.int32)
    for count, new in ((3, 1), (4, 0), (1, 1), (16, 1), (32, 0)):
        before = len(gpu.compiled)
        _add[(1,)](x, x, count, BLOCK=32)
        assert len(gpu.compiled) - before == new
    _add[(1,)](x[1:], x[4:], 3, BLOCK=32)
    assert len(gpu.compiled) == 4
    with pytest.raises(TypeError, match="does not take count"):
        _add[(1,)](x, x, "3", BLOCK=32)


def test_memory_is_counted_and_ends(gpu: Gpu) -> None:
    torch.cuda.empty_cache()
    first = torch.empty(MIB, dtype=torch.int8, device=DEVICE)
    part = first[:5].view(5)
    del first
    assert torch.cuda.memory_allocated(DEVICE) == MIB
    assert torch.cuda.mem_get_info(DEVICE) == (6 * MIB, 8 * MIB)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 7\.00 MiB\. GPU 0 has a total capacity of 8"):
        torch.empty(7 * MIB, dtype=torch.int8, device=DEVICE)
    del part
    assert (torch.cuda.memory_allocated(DEVICE), torch.cuda.max_memory_allocated(DEVICE)) == (0, MIB)
    assert torch.cuda.memory_reserved(DEVICE) == MIB
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info(DEVICE)[0] == 7 * MIB


def test_products_that_only_cuda_has_ask_what_it_asks(gpu: Gpu) -> None:
    a, b = ones(2, 16, dtype=torch.bfloat16), ones(16, 16, dtype=torch.bfloat16)
    assert torch.mm(a, b, out_dtype=torch.float32).dtype is torch.float32
    with pytest.raises(RuntimeError, match="out_dtype must be"):
        torch.mm(a.float(), b.float(), out_dtype=torch.bfloat16)

    def scaled(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        scales = {"scale_a": 2 * ones(len(a), 1), "scale_b": ones(1, b.shape[1])}
        return torch._scaled_mm(a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), out_dtype=out_dtype, **scales)

    assert scaled(a, b.t(), torch.bfloat16).tolist() == [[32.0] * 16] * 2
    for refused in ((a, b, torch.bfloat16), (a, b.t(), torch.float16), (a[:, :8], b[:, :8].t(), torch.bfloat16)):
        with pytest.raises(RuntimeError):
            scaled(*refused)


def test_nothing_of_it_is_left_behind() -> None:
    with pretended():
        assert torch.cuda.is_available()

    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(2, device=DEVICE)
