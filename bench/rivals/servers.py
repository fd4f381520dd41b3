"""Starts one system as a real process on loopback, waits until it completes a prompt, and ends it with its children."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rivals.install import llama_program, python_of, rivals_root
from engine.errors import ConfigError, Unavailable

START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20
LOG_TAIL_CHARS = 3000
VLLM_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "0-1", "HF_HUB_OFFLINE": "1"}
MODEL_NAME = "bench"
TRANSFORMERS_SERVE = '''
import json
from transformers.cli.serving import completion, model_manager
from transformers.cli.transformers import main

class Ids:
    """The tokenizer, for prompts that are ids in JSON."""
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer._tokenizer  # turns answers into text
    def __call__(self, prompt, **options):
        return {"input_ids": json.loads(prompt)}

class Handler(completion.CompletionHandler):
    async def handle_request(self, body, request_id):
        del body["model"]  # it knows one model, by its folder
        if body.pop("ignore_eos", False):
            body["generation_config"] = json.dumps({"eos_token_id": -1})
        if isinstance(body["prompt"], list):
            body["prompt"] = json.dumps(body["prompt"])
        answer = await super().handle_request(body, request_id)
        if body.get("stream"):
            answer.body_iterator = self._ended(answer.body_iterator)
        return answer

    def _resolve_model(self, body):
        name, model, tokenizer = super()._resolve_model(body)
        return name, model, Ids(tokenizer) if body["prompt"].startswith("[") else tokenizer

    async def _ended(self, events):
        async for event in events:
            yield event
        yield "data: [DONE]\\n\\n"

completion.CompletionHandler = Handler
model_manager.ModelManager.get_gen_models = staticmethod(lambda: [{"id": "bench", "object": "model"}])
main()
'''
"""`transformers serve`, and what our client needs of any server: its own answers 422 to `ignore_eos` and 400 to prompts
of token ids, does not list the model of a local folder, and ends no stream with `[DONE]`. All else of it is its own.
"""


@dataclass(frozen=True, slots=True)
class System:
    """How one server is started; `{port}` in the command becomes its port."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    can_sleep: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    name: str
    base_url: str
    pid: int
    model_name: str = MODEL_NAME
    can_sleep: bool = False
    """Whether it bears to be stopped for minutes: ours takes that for the death of its workers."""


def vllm(model: Path, *arguments: str, name: str = "vllm", kv_gib: int = 2, dtype: str = "float32") -> System:
    """`arguments` such as `--max-num-batched-tokens 64`; a W8A8 checkpoint needs bfloat16 for all that is not int8."""
    program = str(rivals_root() / "vllm" / "bin" / "vllm")
    fixed = ("--dtype", dtype, "--host", "127.0.0.1", "--port", "{port}", "--served-model-name", MODEL_NAME)
    command = (program, "serve", str(model), *fixed, "--no-enable-prefix-caching", *arguments)
    return System(name, command, {**VLLM_ENV, "VLLM_CPU_KVCACHE_SPACE": str(kv_gib)})


def llama_cpp(gguf: Path, slots: int, slot_tokens: int, *, name: str = "llama.cpp") -> System:
    """`slots` requests at once, `slot_tokens` of context each."""
    cores = ("-t", "2", "-tb", "2", "-cb")
    # Without the last, it keeps gigabytes of prompts that never come again.
    fixed = ("--host", "127.0.0.1", "--port", "{port}", "--alias", MODEL_NAME, *cores, "--cache-ram", "0")
    size = ("--parallel", str(slots), "-c", str(slots * slot_tokens))
    return System(name, (str(llama_program("llama-server")), "-m", str(gguf), *fixed, *size))


def transformers(model: Path, num_blocks: int, *, name: str = "transformers") -> System:
    """Its continuous batching in float32, with `num_blocks` blocks of KV, 256 positions each."""
    program = (str(python_of("transformers")), "-c", TRANSFORMERS_SERVE, "serve", str(model))
    # Without a number of blocks, it takes six tenths of the machine's memory.
    batching = ("--continuous-batching", "--cb-num-blocks", str(num_blocks))
    fixed = ("--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", "{port}")
    return System(name, (*program, *fixed, *batching), {"HF_HUB_OFFLINE": "1"})


def tandem(model: Path, *arguments: str, name: str = "tandem") -> System:
    """`arguments` of `tandem up`."""
    fixed = ("--http-port", "{port}", "--grpc-port", "0", "--served-model-name", MODEL_NAME)
    return System(name, (sys.executable, "-m", "cli", "up", "--model", str(model), *fixed, *arguments), can_sleep=False)


def end_on_sigterm() -> None:
    """Let a SIGTERM end this process as Ctrl-C does, so that no server is left behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def running(system: System) -> Iterator[Server]:
    """The server while the block runs; Unavailable, with the end of its log, where it does not start."""
    port = _free_port()
    command = [part.replace("{port}", str(port)) for part in system.command]
    with tempfile.NamedTemporaryFile(prefix="rival-", suffix=".log") as log:
        try:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **system.environment}, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"{system.name} is not installed: {error}") from error
        try:
            server = Server(system.name, f"http://127.0.0.1:{port}", process.pid, can_sleep=system.can_sleep)
            _await_completion(server, process, Path(log.name))
            yield server
        finally:
            _stop(process)


def start_all(systems: Sequence[System], stack: ExitStack) -> list[Server]:
    """All servers, until `stack` closes; one that does not start is left out, and why is printed."""
    servers = []
    for system in systems:
        try:
            server = stack.enter_context(running(system))
            print(f"{system.name} answers", file=sys.stderr, flush=True)
            sleep(server)
            servers.append(server)
        except (ConfigError, Unavailable) as error:
            print(f"left out: {error.message}", file=sys.stderr, flush=True)
    return servers


def sleep(server: Server) -> None:
    """Stop a server that others may not feel: some look for work without end."""
    if server.can_sleep:
        os.killpg(server.pid, signal.SIGSTOP)


@contextmanager
def awake(server: Server) -> Iterator[None]:
    """Let a server run that sleeps."""
    os.killpg(server.pid, signal.SIGCONT)
    try:
        yield
    finally:
        sleep(server)


def _await_completion(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    body = json.dumps({"model": server.model_name, "prompt": "a", "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/json"}
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            request = urllib.request.Request(f"{server.base_url}/v1/completions", body, headers)
            with urllib.request.urlopen(request, timeout=30):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)  # a foreign server says in no other way that it is ready
    tail = log.read_text(errors="replace")[-LOG_TAIL_CHARS:]
    ended = "does not answer" if process.poll() is None else f"ended with status {process.returncode}"
    raise Unavailable(f"{server.name} {ended}; its log ends:\n{tail}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the whole group: also children that outlive the process that started them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, number)
            process.wait(STOP_TIMEOUT_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
