"""Whether the prefix cache finds what is there to be found, and what that saves: a multi-turn trace, replayed.

    python -m bench.prefix TRACE [--blocks 512 2048 8192] [--serve 60] [--model DIR] [--out FILE]

TRACE is Mooncake's conversation trace (rows of input_length, output_length, hash_ids; gzip or plain), scaled to a small
model: a block of 512 tokens becomes one of 16, lengths are divided by 32, prompts are cut to `--max-prompt` tokens.

1. Every request through the real schedulers, block pool and prefix cache, without computing: the share of prompt tokens
   found, beside what the trace allows: with a cache without end, with the same number of blocks used least recently
   first out (an account of its own, over the trace's block numbers), and with the future known (Belady). Answers are
   made up, so nobody ever asks for their blocks again.
2. With `--serve N`: the first conversations of several turns, some N turns in all, one after the other through two
   Tandems of a prefill and a decode worker: to one as they are, to the other with first tokens of their own, so that
   nothing is found. TTFT of both, and what hashing the prompts takes of the time to compute them.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from bench.foundation import ROOT, Row, row, serving
from bench.model import make_model
from bench.reuse import best_reuse, endless_reuse, least_recent_reuse
from bench.turns import BLOCK_TOKENS, Turn, conversations, read_turns
from decode.scheduler import DecodeScheduler
from engine.hashes import block_hashes
from engine.sequence import SamplingParams, Sequence, SequenceId
from prefill.scheduler import PrefillScheduler, PromptDone
from protos import generate_pb2 as pb
from protos import generate_pb2_grpc

STEP_TOKENS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=4000, help="of the trace, from its start")
    parser.add_argument("--blocks", type=int, nargs="+", default=[512, 2048, 8192], help="sizes of the cache")
    parser.add_argument("--together", type=int, default=8, help="prompts computed at once, in a second replay")
    parser.add_argument("--max-prompt", type=int, default=2000, help="prompts are cut to this many tokens")
    parser.add_argument("--serve", type=int, default=0, metavar="N", help="turns to send to real servers")
    parser.add_argument("--serve-blocks", type=int, default=2048, help="KV blocks of each worker that serves")
    parser.add_argument("--model", type=Path, help="a folder; default: random weights of the 160m shape")
    parser.add_argument("--serve-option", action="append", default=[], help="of tandem up, like --prefill-cpus=0")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    turns = read_turns(args.trace, args.requests, args.max_prompt)
    rows = [found for num_blocks in args.blocks for found in reuse_rows(turns, num_blocks, args.together)]
    if args.serve:
        served = conversations(turns, args.serve)
        rows += serve_rows(served, args.serve_blocks, args.model, args.serve_option)
    for line in rows:
        print(f"{line['measure']:<76} {line['median']:>10.3f} {line['unit']:<4} {line['note']}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


# -- 1. what is found ------------------------------------------------------------------------------------------------


def reuse_rows(turns: list[Turn], num_blocks: int, together: int) -> list[Row]:
    """Shares of prompt tokens found: what is possible, and what our schedulers find."""
    total = sum(turn.num_tokens for turn in turns)

    def share(measure: str, blocks: int) -> Row:
        return row(f"{num_blocks} blocks: {measure}", [100 * blocks * BLOCK_TOKENS / total], "%")

    return [
        share("possible with a cache without end", endless_reuse(turns)),
        share("possible with the future known", best_reuse(turns, num_blocks)),
        share("possible, least recently used first out", least_recent_reuse(turns, num_blocks)),
        share("found by prefill", prefill_reuse(turns, num_blocks, 1)),
        share(f"found by prefill, {together} prompts at once", prefill_reuse(turns, num_blocks, together)),
        share(
            "possible, least recently used first out, answers kept too",
            least_recent_reuse(turns, num_blocks, with_answers=True),
        ),
        share("found by decode", decode_reuse(turns, num_blocks)),
    ]


def prefill_reuse(turns: list[Turn], num_blocks: int, together: int) -> int:
    """Blocks found when prompts come in groups of `together`, each group done before the next one."""
    scheduler = PrefillScheduler(
        num_blocks, BLOCK_TOKENS, max_step_tokens=STEP_TOKENS, max_sequences=together, max_queued_tokens=1 << 40
    )
    found = 0
    for first in range(0, len(turns), together):
        for number, turn in enumerate(turns[first : first + together], first):
            scheduler.admit(sequence_of(turn, number))
        while chunks := scheduler.plan():
            for event in scheduler.commit(chunks, [(c.sequence, 0) for c in chunks if c.samples]):
                if isinstance(event, PromptDone):
                    found += event.num_cached // BLOCK_TOKENS
                    scheduler.close(event.id)
    scheduler.pool.check()
    return found


def decode_reuse(turns: list[Turn], num_blocks: int) -> int:
    """Blocks found by a decode worker that computes every prompt itself, and answers it."""
    scheduler = DecodeScheduler(num_blocks, BLOCK_TOKENS, max_step_tokens=STEP_TOKENS, max_sequences=1)
    found = 0
    for number, turn in enumerate(turns):
        room = scheduler.admit(sequence_of(turn, number), local=True)
        assert room is not None, f"{turn.num_tokens} tokens do not fit {num_blocks} blocks"
        found += room.num_cached // BLOCK_TOKENS
        while chunks := scheduler.plan():
            # Each answer has tokens of its own: no later prompt begins with it.
            scheduler.commit(chunks, [(c.sequence, number) for c in chunks if c.samples])
    scheduler.pool.check()
    return found


def sequence_of(turn: Turn, number: int) -> Sequence:
    params = SamplingParams(max_tokens=turn.num_output, seed=0, temperature=0.0)
    tokens = turn.tokens()
    sequence = Sequence.of(SequenceId(str(number)), tokens, params)
    sequence.hash_root = ROOT
    sequence.hashes = block_hashes(tokens, BLOCK_TOKENS, ROOT)
    return sequence


# -- 2. what it saves ------------------------------------------------------------------------------------------------


def serve_rows(turns: list[Turn], num_blocks: int, model: Path | None, options: list[str]) -> list[Row]:
    arguments = ["--num-blocks", str(num_blocks), *(part for option in options for part in option.split("=", 1))]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        shape = model or make_model(Path(folder) / "160m", "160m")
        with serving(shape, *arguments) as cached, serving(shape, *arguments) as salted:
            answers = asyncio.run(measure(cached, salted, turns))
    warm, cold, found = ([values[column] for values in answers] for column in range(3))
    total = sum(turn.num_tokens for turn in turns)
    again = [index for index, values in enumerate(answers) if values[2]]
    hashing = [_hashing_ms(turn) for turn in turns]
    possible = _percent(least_recent_reuse(turns, num_blocks), total)
    served = f"{len(turns)} turns served, {num_blocks} blocks"
    return [
        row(f"{served}: possible, least recently used first out", [possible], "%"),
        row(f"{served}: found, by whoever computed the prompt", [100 * sum(found) / total], "%"),
        row("TTFT of all turns, nothing found", cold, "ms"),
        row("TTFT of all turns, with the cache", warm, "ms"),
        row("mean TTFT with the cache / without", [sum(warm) / sum(cold)], ""),
        row("TTFT of turns of which something was found / without", [warm[i] / cold[i] for i in again], ""),
        row("hashing a prompt / its TTFT with nothing found", [_percent_of(hashing, cold)], "%"),
    ]


async def measure(cached: str, salted: str, turns: list[Turn]) -> list[tuple[float, float, int]]:
    """For each turn: TTFT in ms with the cache and without, and the tokens that were found."""
    answers = []
    for warm_up in range(3):
        for address in (cached, salted):
            await ask(address, [7 + warm_up] * 256)
    for number, turn in enumerate(turns):
        tokens = turn.tokens()
        warm_ms, found = await ask(cached, tokens)
        cold_ms, none = await ask(salted, [8 + number // 1000, 8 + number % 1000, *tokens[2:]])
        assert none == 0, "a prompt with a first token of its own was found"
        answers.append((warm_ms, cold_ms, found))
    return answers


async def ask(address: str, prompt: list[int]) -> tuple[float, int]:
    """TTFT in ms, and the tokens of the prompt that were found."""
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt), sampling=pb.Sampling(temperature=0), stopping=pb.Stopping(max_tokens=4)
    )
    request.stopping.ignore_eos = True
    first, found = 0.0, 0
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        began = time.perf_counter()
        async for response in generate_pb2_grpc.InferenceStub(channel).Generate(request):
            kind = response.WhichOneof("event")
            first = first or (time.perf_counter() if kind == "delta" else 0.0)
            found = response.finished.usage.cached_tokens if kind == "finished" else found
    return (first - began) * 1e3, found


def _hashing_ms(turn: Turn) -> float:
    tokens = turn.tokens()
    return min(_timed_ms(lambda: block_hashes(tokens, BLOCK_TOKENS, ROOT)) for _ in range(3))


def _timed_ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def _percent(blocks: int, total: int) -> float:
    return 100 * blocks * BLOCK_TOKENS / total


def _percent_of(part: list[float], whole: list[float]) -> float:
    return 100 * statistics.fmean(part) / statistics.fmean(whole)


if __name__ == "__main__":
    main()
