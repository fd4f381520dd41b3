"""Commands become sequences, or are refused when they cannot be meant for this worker."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.identity import Identity
from engine.sequence import FinishReason, SamplingParams, SequenceId, TokenLogprobs
from engine.wire import finish_to, logprobs_to, sampling_from, sampling_to, sequence_from
from protos import worker_pb2 as pb

WHO = Identity(
    worker_id="w",
    role=pb.ROLE_DECODE,
    model="m",
    layout="l",
    num_blocks=10,
    block_tokens=4,
    block_bytes=1,
    vocab_size=50,
    max_context=20,
    max_sequences=8,
    lease_s=1.0,
    incarnation="i",
)
A = SequenceId("a")
NAN, INF = float("nan"), float("inf")
fractions = st.floats(0.01, 1.0)
sampling = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 2**31),
    seed=st.integers(0, 2**64 - 1),
    min_tokens=st.integers(0, 100),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 2**31 - 1),
    top_p=fractions,
    min_p=fractions,
    repetition_penalty=st.floats(0.01, 100),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, 99), st.floats(-100, 100)).map(lambda bias: tuple(sorted(bias.items()))),
    stop_token_ids=st.frozensets(st.integers(0, 99)),
    num_logprobs=st.none() | st.integers(0, 20),
)


@given(sampling)
def test_sampling_survives_the_wire(params: SamplingParams) -> None:
    assert sampling_from(pb.Sampling.FromString(sampling_to(params).SerializeToString())) == params


def admit(**fields: object) -> pb.Admit:
    given = {"token_ids": [1] * 9, "num_prompt": 9, "hash_root": bytes(16), "block_hashes": b"ab" * 16, **fields}
    return pb.Admit(sampling=given.pop("sampling", pb.Sampling(max_tokens=1, repetition_penalty=1)), **given)


def test_a_sequence_is_what_was_admitted() -> None:
    made = sequence_from(A, admit(token_ids=[1] * 8 + [2, 3], num_prompt=8), WHO)

    assert (made.tokens.tolist(), made.num_prompt, made.num_output) == ([1] * 8 + [2, 3], 8, 2)
    assert (made.hash_root, made.hashes) == (bytes(16), [b"ab" * 8] * 2)


def test_output_so_far_counts_for_penalties() -> None:
    penal = pb.Sampling(max_tokens=5, repetition_penalty=1, presence_penalty=1)
    made = sequence_from(A, admit(token_ids=[1] * 9 + [2, 2], sampling=penal), WHO)
    assert made.output_counts == {2: 2}


def test_without_a_root_the_prefix_cache_is_not_used() -> None:
    made = sequence_from(A, admit(hash_root=b""), WHO)
    assert (made.hash_root, made.hashes) == (None, [])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_prompt": 0}, "num_prompt"),
        ({"num_prompt": 10}, "num_prompt"),
        ({"token_ids": [], "num_prompt": 0}, "num_prompt"),
        ({"token_ids": [1] * 20, "num_prompt": 20}, "token_ids"),
        ({"token_ids": [1] * 8 + [-1]}, "token_ids"),
        ({"token_ids": [50] + [1] * 8}, "token_ids"),
        ({"hash_root": b"short"}, "block_hashes"),
        ({"block_hashes": b"a" * 31}, "block_hashes"),
        ({"block_hashes": b"a" * 16}, "block_hashes"),
        ({"sampling": pb.Sampling(max_tokens=0, repetition_penalty=1)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, temperature=NAN)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, top_p=INF)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, logit_bias={1: NAN})}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, logit_bias={1: 1e300})}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, temperature=-1)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, min_p=1.5)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1e-300)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, frequency_penalty=1e300)}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, stop_token_ids=[-(2**31)])}, "sampling"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, logit_bias={50: 1.0})}, "logit_bias"),
        ({"sampling": pb.Sampling(max_tokens=1, repetition_penalty=1, logit_bias={-1: 1.0})}, "logit_bias"),
    ],
)
def test_what_makes_no_sense_here_is_refused_by_field(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sequence_from(A, admit(**fields), WHO)
    assert refused.value.field == named


def test_hashes_of_blocks_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="per 8 tokens"):
        sequence_from(A, admit(), replace(WHO, block_tokens=8))


def test_reasons_and_logprobs_have_their_names_on_the_wire() -> None:
    reasons = (None, FinishReason.STOP, FinishReason.LENGTH, FinishReason.COMPLETE)
    assert [finish_to(reason) for reason in reasons] == [0, 1, 2, 3]
    assert logprobs_to(None) is None
    assert logprobs_to(TokenLogprobs(-1.5, (3,), (-0.5,))) == pb.Logprobs(chosen=-1.5, top_ids=[3], top=[-0.5])
