"""Output and prefill tokens per second beside the rivals: closed loops of 1 to 32 streams, then single long prompts.

    python -m bench.rivals.throughput [--rounds 5] [--client ours|vllm] [--output FILE]

Float32 first, then eight bits: the servers of either run from beginning to end, idle but for the one that is measured;
a round measures each of them once, in an order that is rotated, so that a noisy minute is not one system's. Prompts are
random token ids, new in every measurement. In each round the speed of reading memory is measured too: a decode step of
one float32 stream reads every weight but the embeddings once.
"""

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import torch

from bench.memory import read_speed, weight_bytes
from bench.rivals.install import rivals_root
from bench.rivals.models import Models
from bench.rivals.results import Results, Sample, Value
from bench.rivals.servers import Server
from bench.rivals.session import Groups, Session, compare, in_turn, session_parser
from bench.rivals.systems import is_rival, llamas, tandems, transformers_f32, vllms
from cli.load.config import LoadConfig, TargetConfig
from cli.load.run import run_load
from engine.checkpoint import ModelFolder
from engine.errors import Unavailable
from engine.models.families import model_spec

STREAMS = (1, 8, 16, 32)
INPUT_LEN, OUTPUT_LEN = 128, 64
PROMPT_LENS = (512, 1024)
NUM_LONG = 4
VOCAB = 32_000
OUTPUT, PREFILL = "output tok/s", "prefill tok/s"
MEMORY = "memory bandwidth"


def groups(models: Models) -> Groups:
    arrangements = "unified", "1P1D lent", "1P1D lent both"
    llama_f32, llama_q8_0 = llamas(models, 32, 1280)
    vllm_f32, vllm_w8a8 = (vllms(models, precision, 0, kv_gib=1) for precision in ("f32", "W8A8"))
    float32 = *tandems(models, "f32", *arrangements), *vllm_f32, llama_f32, transformers_f32(models)
    eight_bits = *tandems(models, "int8", *arrangements), *vllm_w8a8, llama_q8_0
    return [float32, eight_bits]


def closed_loop(server: Server, streams: int, seed: int) -> dict[str, Value]:
    config = LoadConfig(
        target=TargetConfig(url=server.base_url, model=server.model_name),
        num_prompts=num_prompts(streams),
        concurrency=streams,
        input_len=INPUT_LEN,
        output_len=OUTPUT_LEN,
        vocab=VOCAB,
        seed=seed,
    )
    result = run_load(config)
    return {
        OUTPUT: result.summary["output_throughput"],
        "median TTFT ms": result.summary["median_ttft_ms"],
        "median TPOT ms": result.summary["median_tpot_ms"],
        "failed": ", ".join(f"{count} {kind}" for kind, count in result.failures.items()),
    }


def vllm_closed_loop(server: Server, models: Models, streams: int, seed: int) -> dict[str, Value]:
    """The same by `vllm bench serve`, which neither side wrote for this; its own work takes more of the two cores."""
    options = {
        "--backend": "openai",
        "--endpoint": "/v1/completions",
        "--base-url": server.base_url,
        "--model": server.model_name,
        "--tokenizer": str(models.float32),
        "--dataset-name": "random",
        "--random-input-len": str(INPUT_LEN),
        "--random-output-len": str(OUTPUT_LEN),
        "--max-concurrency": str(streams),
        "--num-prompts": str(num_prompts(streams)),
        "--num-warmups": "1",
        "--seed": str(seed),
        "--result-filename": "result.json",
    }
    with tempfile.TemporaryDirectory(prefix="tandem-rivals-") as folder:
        words = [word for pair in options.items() for word in pair]
        program = str(rivals_root() / "vllm" / "bin" / "vllm")
        command = [program, "bench", "serve", *words, "--ignore-eos", "--disable-tqdm", "--save-result"]
        done = subprocess.run([*command, "--result-dir", folder], capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"vllm bench serve failed: {done.stderr[-2000:]}")
        return read_vllm((Path(folder) / "result.json").read_text())


def read_vllm(text: str) -> dict[str, Value]:
    """The same figures from the file that `vllm bench serve` writes."""
    found = json.loads(text)
    return {
        OUTPUT: found["output_throughput"],
        "median TTFT ms": found["median_ttft_ms"],
        "median TPOT ms": found["median_tpot_ms"],
        "failed": str(found["num_prompts"] - found["completed"] or ""),
    }


def num_prompts(streams: int) -> int:
    """Some seconds of work: three prompts a stream, and not fewer than 6."""
    return max(6, 3 * streams)


def prefill(server: Server, prompt_len: int, seed: int) -> dict[str, Value]:
    """Prompts one at a time, of which one token is asked: what TTFT makes of their tokens."""
    config = LoadConfig(
        target=TargetConfig(url=server.base_url, model=server.model_name),
        num_prompts=NUM_LONG,
        concurrency=1,
        input_len=prompt_len,
        output_len=1,
        vocab=VOCAB,
        seed=seed,
    )
    summary = run_load(config).summary
    ttft_ms = summary["median_ttft_ms"]
    return {
        PREFILL: None if ttft_ms is None else prompt_len / float(ttft_ms) * 1e3,
        "failed": str(summary["failed"] or ""),
    }


def measure(run: Session) -> None:
    memory = torch.ones(100 << 10, 1024)  # 400 MiB
    step_bytes = weight_bytes(model_spec(ModelFolder.open(run.models.float32).config), bytes_per_weight=4)
    for number in range(run.args.rounds):
        speed = read_speed(memory)
        run.results.add(Sample(MEMORY, "1 stream", number, {OUTPUT: speed / step_bytes, "GB/s": speed / 1e9}))
        for server in in_turn(run.servers, number):
            measure_one(run, server, number)


def measure_one(run: Session, server: Server, number: int) -> None:
    """All cases of one round. Every measurement has prompts of its own, or caches would know them."""
    vllms_client = partial(vllm_closed_loop, server, run.models)
    loop = vllms_client if run.args.client == "vllm" else partial(closed_loop, server)
    for streams in run.args.streams:
        case = f"{streams} stream{'s' if streams > 1 else ''}"
        run.results.measure(server.name, case, number, partial(loop, streams, number * 10_000 + streams))
    for prompt_len in run.args.prompt_lens:
        how = partial(prefill, server, prompt_len, number * 10_000 + prompt_len)
        run.results.measure(server.name, f"{prompt_len}-token prompts", number, how)


def report(results: Results) -> str:
    found = {s.system for s in results.samples}
    ours = [name for name in found if not is_rival(name)]
    parts = [results.table(OUTPUT), results.table(PREFILL), results.table("median TPOT ms", 1)]
    parts += [results.table("median TTFT ms"), results.failures()]
    float32 = [name for name in ours if " f32 " in name]
    int8 = [name for name in ours if " int8 " in name]
    pairs = (
        (float32, [n for n in found if is_rival(n) and n.endswith(" f32")], "float32"),
        (int8, ["llama.cpp Q8_0"], "int8 beside llama.cpp's Q8_0"),
        (int8, ["vllm W8A8"], "int8 beside vLLM's W8A8"),
        (float32, [MEMORY], "float32 beside what memory allows"),
    )
    for mine, theirs, title in pairs:
        parts.append(f"{title}: {results.ratios(OUTPUT, mine, theirs)}")
        if prefills := results.ratios(PREFILL, mine, theirs):
            parts.append(f"{title}, prefill: {prefills}")
    return "\n\n".join(parts)


def main() -> None:
    parser = session_parser(__doc__, rounds=5)
    parser.add_argument("--client", choices=("ours", "vllm"), default="ours")
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--prompt-lens", type=int, nargs="*", default=PROMPT_LENS)
    compare(parser.parse_args(), "output and prefill throughput", groups, measure, report)


if __name__ == "__main__":
    main()
