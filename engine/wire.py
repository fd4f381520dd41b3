"""Protobuf to the engine's values and back, as far as prefill and decode share it."""

from engine.custody import Custody
from engine.errors import InvalidRequest
from engine.hashes import HASH_BYTES, split_hashes
from engine.histogram import Buckets
from engine.identity import Identity
from engine.pooling import Pooled, Pooling
from engine.scoring import PromptScores, Scoring
from engine.sequence import BlockHash, FinishReason, SamplingParams, Sequence, SequenceId, TokenLogprobs
from protos import worker_pb2 as pb

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message of the stream between a frontend and a worker, to either side."""
MAX_TOP = 32
"""Of the likeliest tokens that are told in the place of one. Frontends let clients ask for fewer."""
_POOLINGS = {pb.POOLING_MEAN: Pooling.MEAN, pb.POOLING_LAST: Pooling.LAST}


def sequence_from(sequence_id: SequenceId, admit: pb.Admit, who: Identity) -> Sequence:
    """The sequence that `admit` describes. Raises InvalidRequest if it cannot be meant for this model.

    Frontends have checked what clients sent; this guards the worker against a frontend of another version or model.
    """
    tokens, sampling, hashes = admit.token_ids, admit.sampling, admit.block_hashes
    if not 0 < admit.num_prompt <= len(tokens):
        raise InvalidRequest(f"num_prompt is {admit.num_prompt} of {len(tokens)} tokens", field="num_prompt")
    if len(tokens) >= who.max_context:
        raise InvalidRequest(f"{len(tokens)} tokens; this worker's context is {who.max_context}", field="token_ids")
    for name, ids in (("token_ids", tokens), ("logit_bias", sampling.logit_bias.keys())):
        if min(ids, default=0) < 0 or max(ids, default=0) >= who.vocab_size:
            raise InvalidRequest(f"a token id is outside the vocabulary of {who.vocab_size}", field=name)
    sequence = Sequence.of(sequence_id, tokens, sampling_from(sampling), admit.num_prompt)
    if admit.hash_root:
        # Hashes of blocks of another size would find blocks that hold something else.
        if len(hashes) != admit.num_prompt // who.block_tokens * HASH_BYTES or len(admit.hash_root) != HASH_BYTES:
            raise InvalidRequest(f"block hashes are not 16 bytes per {who.block_tokens} tokens", field="block_hashes")
        sequence.hash_root = BlockHash(admit.hash_root)
        sequence.hashes = split_hashes(hashes)
    if pooling := _POOLINGS.get(admit.pooling):
        sequence.pooled = Pooled(pooling)
    elif admit.pooling:
        raise InvalidRequest(f"there is no pooling {admit.pooling}", field="pooling")
    if admit.HasField("prompt_logprobs"):
        if sequence.pooled is not None or admit.prompt_logprobs > MAX_TOP:
            message = f"log-probabilities of a prompt: {MAX_TOP} tokens in each place at most, and no vector"
            raise InvalidRequest(message, field="prompt_logprobs")
        sequence.scoring = Scoring(admit.prompt_logprobs)
    return sequence


def histogram_to(buckets: Buckets) -> pb.Histogram:
    return pb.Histogram(counts=buckets.counts, sum=buckets.sum)


def sampling_from(sampling: pb.Sampling) -> SamplingParams:
    """Raises InvalidRequest for values that no frontend of ours sends."""
    in_range = (
        0 <= sampling.temperature <= 2,
        0 <= sampling.top_p <= 1,
        0 <= sampling.min_p <= 1,
        0.01 <= sampling.repetition_penalty <= 100,  # logits are divided by it, in float32
        -2 <= sampling.presence_penalty <= 2,
        -2 <= sampling.frequency_penalty <= 2,
        all(-100 <= bias <= 100 for bias in sampling.logit_bias.values()),
        sampling.max_tokens > 0,
        min(sampling.stop_token_ids, default=0) >= 0,
    )
    if not all(in_range):  # NaN is in none; the step would compute nonsense with what is not, or end the process
        raise InvalidRequest("sampling parameters are out of range", field="sampling")
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        seed=sampling.seed,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=tuple(sorted(sampling.logit_bias.items())),
        stop_token_ids=frozenset(sampling.stop_token_ids),
        num_logprobs=sampling.num_logprobs if sampling.HasField("num_logprobs") else None,
    )


def pooling_to(pooling: Pooling | None) -> "pb.Pooling":
    return next((name for name, each in _POOLINGS.items() if each is pooling), pb.POOLING_UNSPECIFIED)


def sampling_to(params: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        seed=params.seed,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=dict(params.logit_bias),
        stop_token_ids=sorted(params.stop_token_ids),
        num_logprobs=params.num_logprobs,
    )


def custody_to(custody: Custody) -> pb.GetCustodyResponse:
    """Holders carry their sequence id in `request_id`; who knows sessions puts names there."""
    return pb.GetCustodyResponse(
        num_blocks=custody.num_blocks,
        free_blocks=custody.num_free,
        cached_blocks=custody.num_cached,
        leaked_blocks=custody.num_leaked,
        holders=[pb.Holder(request_id=h.id, state=h.state, blocks=h.blocks, reason=h.reason) for h in custody.holders],
    )


def finish_to(finish: FinishReason | None) -> pb.FinishReason:
    match finish:
        case None:
            return pb.FINISH_REASON_UNSPECIFIED
        case FinishReason.STOP:
            return pb.FINISH_REASON_STOP
        case FinishReason.LENGTH:
            return pb.FINISH_REASON_LENGTH
        case FinishReason.COMPLETE:
            return pb.FINISH_REASON_COMPLETE


def logprobs_to(logprobs: TokenLogprobs | None) -> pb.Logprobs | None:
    if logprobs is None:
        return None
    return pb.Logprobs(chosen=logprobs.logprob, top_ids=logprobs.top_ids, top=logprobs.top_logprobs)


def scores_to(leg: int, scores: PromptScores) -> pb.PromptScores:
    return pb.PromptScores(
        leg=leg,
        first=scores.first,
        logprobs=scores.logprobs.astype("<f4").tobytes(),
        ranks=scores.ranks.astype("<u4").tobytes(),
        top_ids=scores.top_ids.astype("<i4").tobytes(),
        top=scores.top_logprobs.astype("<f4").tobytes(),
    )
