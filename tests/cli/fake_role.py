"""Programs that look like `python -m frontend | prefill | decode` from outside, and start in a moment."""

import json
import os
import signal
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.cli import fake_server


def main(role: str) -> None:
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    name = given.get("--worker-id", role)
    sys.stderr.write(f"pid {os.getpid()}\n")
    servers = _frontend(given) if role == "frontend" else [_worker(given)]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    sys.stderr.write(f"{name} drained\n")
    for server in servers:
        server.stop(grace=1.0).wait()


def _worker(given: dict[str, str]) -> grpc.Server:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    status = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    server.add_insecure_port(given["--listen"])
    server.start()
    status.set("", health_pb2.HealthCheckResponse.SERVING)
    return server


def _frontend(given: dict[str, str]) -> list[grpc.Server]:
    address = f"{given['--host']}:{given['--grpc-port']}"
    inference = fake_server.FakeInference(api_key=os.environ.get("TANDEM_API_KEY"))
    server, _ = fake_server.start(inference, address)
    if local := given.get("--local-listen"):  # with TLS this is asked, not HTTP
        return [server, _worker({"--listen": local})]
    http = ThreadingHTTPServer((given["--host"], int(given["--http-port"])), Ready)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return [server]


class Ready(BaseHTTPRequestHandler):
    """Not ready at the first time of asking."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        ready = self.asked > 1
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"ready": ready, "reason": "" if ready else "no decode worker yet"}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
