"""An HTTP server with a few pages, for the commands that read a frontend's."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(pages: Mapping[str, bytes], key: str = "") -> Iterator[str]:
    """`pages` by path; yields the address. With `key`, whoever does not carry it is refused in OpenAI's words."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if key and self.headers.get("authorization") != f"Bearer {key}":
                self._answer(401, b'{"error": {"message": "the API key is wrong"}}')
            elif self.path in pages:
                self._answer(200, pages[self.path])
            else:
                self._answer(404, b'{"error": {"message": "no such record"}}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
