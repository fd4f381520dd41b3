"""How likely prompts are, against transformers' logits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.kernels.logprobs import logprobs_twin, ranks_twin, scores_of
from engine.models import decoder
from engine.runner import Runner, load_decoder
from engine.scoring import PromptScores, Scoring
from engine.sequence import Sequence
from engine.tp.wire import pack_batch, unpack_batch
from tests.reference import Blocks, load_reference, make_model, reference_logits, sequence_of, step

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    make_model(request.param, path)
    return path


def runner_of(folder: Path, *, quantize: bool = False) -> Runner:
    decoder = load_decoder(ModelFolder.open(folder), quantize=quantize)
    return Runner(decoder, KVCache(decoder.spec, 40, 4))


def scored(name: str, tokens: list[int], num_top: int) -> Sequence:
    sequence = sequence_of(name, tokens)
    sequence.scoring = Scoring(num_top)
    return sequence


def said(sequence: Sequence) -> list[PromptScores]:
    assert sequence.scoring is not None
    return sequence.scoring.drain()


def check(parts: list[PromptScores], tokens: list[int], logits: torch.Tensor, num_top: int, atol: float = 2e-4) -> None:
    """`logits` `[n, V]` are those of all positions."""
    at = 1
    for part in parts:
        assert part.first == at
        at += len(part.logprobs)
        for place, logprob, rank, ids, top in zip(
            range(part.first, at), part.logprobs, part.ranks, part.top_ids, part.top_logprobs, strict=True
        ):
            expected = logits[place - 1].double().log_softmax(-1)
            assert logprob == pytest.approx(float(expected[tokens[place]]), abs=atol)
            likelier = int((expected > expected[tokens[place]]).sum())
            assert rank == 1 + likelier, "random logits are not that close to each other"
            assert len(ids) == num_top
            assert top.tolist() == pytest.approx(expected[ids.tolist()].tolist(), abs=atol)
            assert top.tolist() == pytest.approx(expected.topk(num_top).values.tolist(), abs=atol)
            if rank <= num_top:
                assert top[rank - 1] == logprob, "a token is as likely by itself as among the likeliest"
    assert at == len(tokens)


@pytest.mark.parametrize("chunks", [[13], [1] * 13, [5, 1, 7], [12, 1]], ids=str)
@pytest.mark.parametrize("num_top", [0, 3])
def test_scores_are_those_of_the_reference_whatever_the_chunks(folder: Path, chunks: list[int], num_top: int) -> None:
    runner = runner_of(folder)
    blocks, sequence, plain = Blocks(runner), scored("a", TOKENS, num_top), sequence_of("a", TOKENS)
    beside, other = scored("b", TOKENS[4:9], 1), sequence_of("c", TOKENS[:4])
    parts: list[PromptScores] = []
    for num_tokens in chunks:
        more = [] if beside.num_computed else [(other, 4), (beside, 5)]
        logits = step(runner, blocks, [(sequence, num_tokens), *more])
        parts += said(sequence)
    reference = load_reference(folder)
    check(parts, TOKENS, reference_logits(reference, TOKENS), num_top)
    check(said(beside), TOKENS[4:9], reference_logits(reference, TOKENS[4:9]), 1)
    same = step(runner, blocks, [(plain, len(TOKENS))])["a"]
    torch.testing.assert_close(logits["a"], same, rtol=1e-4, atol=1e-4)


def test_logits_are_made_of_a_few_rows_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, sizes = runner_of(folder), []

    def noted(logits: np.ndarray, ids: np.ndarray, count: int) -> PromptScores:
        sizes.append(logits.shape)
        return scores_of(logits, ids, count)

    monkeypatch.setattr(decoder, "_SCORED_BYTES", 5 * 4 * 97)
    monkeypatch.setattr(decoder, "scores_of", noted)
    sequence, beside = scored("a", TOKENS, 2), scored("b", TOKENS[:3], 1)
    step(runner, Blocks(runner), [(sequence, len(TOKENS)), (beside, 3)])
    assert sizes == [(5, 97), (5, 97), (4, 97)]
    reference = load_reference(folder)
    check(said(sequence), TOKENS, reference_logits(reference, TOKENS), 2)
    check(said(beside), TOKENS[:3], reference_logits(reference, TOKENS[:3]), 1)


def test_with_int8_they_are_those_of_its_own_logits(folder: Path) -> None:
    runner = runner_of(folder, quantize=True)
    logits = []
    for end in range(1, len(TOKENS) + 1):
        sequence = sequence_of(str(end), TOKENS[:end])
        logits.append(step(runner, Blocks(runner), [(sequence, end)])[sequence.id].clone())
    sequence = scored("a", TOKENS, 3)
    step(runner, Blocks(runner), [(sequence, len(TOKENS))])
    made = torch.tensor(said(sequence)[0].logprobs)
    expected = torch.stack(logits).log_softmax(-1)
    torch.testing.assert_close(made, expected[range(12), TOKENS[1:]], atol=0.1, rtol=0)  # attention is rounded, too


def test_who_is_computed_anew_is_scored_anew_until_the_answer_begins(folder: Path) -> None:
    runner = runner_of(folder)
    blocks, sequence = Blocks(runner), scored("a", TOKENS, 1)
    step(runner, blocks, [(sequence, 6)])
    assert [part.first for part in said(sequence)] == [1]
    sequence.num_computed = 0  # as of one that was preempted
    step(runner, blocks, [(sequence, 13)])
    check(said(sequence), TOKENS, reference_logits(load_reference(folder), TOKENS), 1)
    sequence.append(5)
    sequence.num_computed = 0
    step(runner, blocks, [(sequence, 14)])
    assert said(sequence) == []


def test_a_prompt_of_one_token_says_nothing(folder: Path) -> None:
    runner, sequence = runner_of(folder), scored("a", [7], 1)
    step(runner, Blocks(runner), [(sequence, 1)])
    assert said(sequence) == []


def test_other_ranks_hear_which_rows_are_scored() -> None:
    sequence, other = scored("a", TOKENS, 2), sequence_of("b", TOKENS[:5])
    sequence.blocks.extend(range(4))
    other.blocks.extend(range(4, 6))
    batch = Batch.build([Chunk(other, 4, 5), Chunk(sequence, 9, 13)], 4)
    assert batch.scored_rows.tolist() == [1, 2, 3]
    assert batch.scored_ids.tolist() == TOKENS[10:]
    again = unpack_batch(bytearray(pack_batch(batch)))
    assert again.kept_rows.tolist() == batch.kept_rows.tolist() == [0, 4, 1, 2, 3]
    assert again.scored == ()


def test_scores_agree_with_their_twins() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(7, 301, generator=generator)
    logits[3, 10:14] = 9.0  # equally likely
    ids = torch.tensor([0, 300, 17, 11, 5, 6, 7])
    made = scores_of(logits.numpy(), ids.numpy(), 6)
    everything, top, top_ids = logprobs_twin(logits, 6)
    torch.testing.assert_close(torch.tensor(made.logprobs), everything.gather(1, ids[:, None])[:, 0].float())
    torch.testing.assert_close(torch.tensor(made.top_logprobs), top.float())
    assert made.top_ids.tolist() == top_ids.tolist()
    assert made.ranks.tolist() == ranks_twin(logits, ids).tolist()
    assert made.ranks[3] == 1
