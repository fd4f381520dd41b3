import subprocess
import sys

import pytest

from engine.cache import DTYPES
from tests.shared_data import shared_data

SCRIPT = """
import sys
from array import array
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder
from engine.runner import Runner, load_decoder
from engine.sampler import Sampler
from engine.sequence import SamplingParams, Sequence, SequenceId

folder, kv, weights = sys.argv[1:]
decoder = load_decoder(ModelFolder.open(Path(folder)), quantize=weights == "int8")
runner, sampler = Runner(decoder, KVCache(decoder.spec, 80, 16, dtype=kv)), Sampler()
runner.warm_up()
sampler.warm_up()
compile = Dispatcher.compile

def refuse(self, signature):
    raise SystemExit(f"not compiled by the warm-up: {self.py_func.__qualname__}")

Dispatcher.compile = refuse

def step(*spans, temperature=0.0):
    chunks = []
    for index, (start, end) in enumerate(spans):
        params = SamplingParams(max_tokens=9, seed=0, temperature=temperature)
        sequence = Sequence.of(SequenceId(str(index)), [0] * end, params)
        sequence.blocks = array("i", [0] * 9)
        chunks.append(Chunk(sequence, start, end))
    batch = Batch.build(chunks, 16)
    sampler(runner(batch), batch.sampled)

step((0, 5))
step((0, 140))
step((64, 140))
step((0, 40), (20, 60))
step(*[(20, 21)] * 3)
step(*[(20, 21)] * 70)
step((0, 40), (20, 60), (20, 21), (100, 101))
step((0, 40), (20, 21), temperature=1.0)
"""


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("kv", DTYPES)
def test_no_request_waits_for_a_compiler(kv: str, weights: str) -> None:
    folder = str(shared_data("models", "babyllama105"))
    run = subprocess.run([sys.executable, "-c", SCRIPT, folder, kv, weights], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
