"""The other process of `beside.py`: it computes a prompt for each line that it reads, and answers with a line."""

import sys
from collections.abc import Iterator
from functools import partial

from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.beside import PROMPT_TOKENS, READY
from bench.gpu_parts.engine import BLOCK_TOKENS, Engine, Room, blocks_of, with_blocks
from bench.gpu_parts.shapes import LLAMA_8B
from engine.batch import Batch, Chunk


def tasks(bench: Bench) -> Iterator[Task]:
    yield Task("prompts for the streams of another process", partial(_serve, bench))


def _serve(bench: Bench) -> None:
    tokens = bench.size(PROMPT_TOKENS, 16)
    blocks = blocks_of(tokens)
    shape = LLAMA_8B.tiny() if bench.is_dry else LLAMA_8B
    engine = Engine(bench, shape, Room(1, tokens, tokens + 1, blocks))
    prompt = with_blocks(engine.sequence("prompt", tokens), range(blocks))
    batch = Batch.build([Chunk(prompt, 0, tokens)], BLOCK_TOKENS)
    engine.launch(batch, None).collect()
    print(READY, flush=True)
    for line in sys.stdin:
        engine.launch(batch, None).collect()
        print(line.strip(), flush=True)
