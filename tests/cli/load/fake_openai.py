"""An OpenAI-compatible server that plays scripts: known chunks, refusals, streams that break off or never come."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """One chunk per text; then usage and [DONE], unless it breaks off or is held."""

    texts: tuple[str, ...] = ("a", "b", "c")
    tokens: int | None = None
    """Of the usage. None: one per text, and a chunk without text closes the stream."""
    status: int = 200
    is_cut: bool = False
    is_held: bool = False
    """Nothing more comes until the test is over."""


@dataclass
class FakeOpenAI:
    """The first requests get `answers`, one each; then each gets `rest`."""

    answers: list[Answer] = field(default_factory=list)
    rest: Answer = Answer()
    long_answer: Answer | None = None
    """For prompts of more than 20 tokens, instead."""
    model: dict[str, object] = field(default_factory=lambda: {"id": "fake", "vocab_size": 50})
    bodies: list[dict[str, object]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, object], key: str | None) -> Answer:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            if self.long_answer is not None and len(str(body["prompt"]).split()) > 20:
                return self.long_answer
            return self.answers.pop(0) if self.answers else self.rest


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no event."""


@contextmanager
def serving(fake: FakeOpenAI) -> Iterator[str]:
    """The address while it is served."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._whole(200, {"object": "list", "data": [fake.model]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = fake.answer(body, self.headers["authorization"])
            if answer.status != 200:
                self._whole(answer.status, {"error": {"message": f"no place for number {len(fake.bodies)}"}})
                return
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            is_chat = "messages" in body
            if is_chat:
                self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for text in answer.texts:
                self._event({"choices": [{"delta": {"content": text}} if is_chat else {"text": text}]})
            if answer.is_held:
                fake.over.wait(30)
            if answer.is_cut or answer.is_held:
                self.close_connection = True
                return
            if answer.tokens is None:
                closing: dict[str, object] = {"delta": {}} if is_chat else {"text": ""}
                self._event({"choices": [closing | {"finish_reason": "length"}]})
            tokens = len(answer.texts) if answer.tokens is None else answer.tokens
            num_prompt = len(body["messages"] if is_chat else body["prompt"])
            self._event({"choices": [], "usage": {"prompt_tokens": num_prompt, "completion_tokens": tokens}})
            self._piece(b"data: [DONE]\n\n")
            self._piece(b"")

        def _event(self, value: dict[str, object]) -> None:
            self._piece(b": ping\n\ndata: " + json.dumps(value).encode() + b"\n\n")

        def _piece(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def _whole(self, status: int, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        fake.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
