#!/usr/bin/env python3
"""Whether this container's role would take a request: 0, or 1 with the reason. Reads the role's own environment.

A frontend is asked for /ready; a worker for its gRPC health, over TLS with its own certificate where it has one.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5.0
NO_PROXY = urllib.request.ProxyHandler({})


def main() -> int:
    listen = os.environ.get("TANDEM_LISTEN")
    reason = worker(int(listen.rpartition(":")[2])) if listen else frontend()
    sys.stdout.write(f"{reason or 'ready'}\n")
    return 1 if reason else 0


def frontend() -> str:
    handlers: list[urllib.request.BaseHandler] = [NO_PROXY]
    if cert := os.environ.get("TANDEM_TLS_CERT"):
        # It is this container that is asked: whose certificate it shows is not the question. It may want one, too.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(cert, os.environ["TANDEM_TLS_KEY"])
        handlers.append(urllib.request.HTTPSHandler(context=context))
    url = f"{'https' if cert else 'http'}://127.0.0.1:{os.environ.get('TANDEM_HTTP_PORT', '8000')}/ready"
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except OSError as error:
        return f"{url}: {error}"


def worker(port: int) -> str:
    import grpc  # noqa: PLC0415 - a frontend's check does without
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # noqa: PLC0415
    from grpc_health.v1.health_pb2_grpc import HealthStub  # noqa: PLC0415

    options = [("grpc.enable_http_proxy", 0)]
    address = f"localhost:{port}"
    files = [os.environ.get(f"TANDEM_TLS_{name}") for name in ("CA", "KEY", "CERT")]
    if any(files):
        credentials = grpc.ssl_channel_credentials(*(read(file) if file else None for file in files))
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        try:
            status = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT_S).status
        except grpc.RpcError as error:
            return f"{address}: {error.code().name} {error.details()}"
    return "" if status == HealthCheckResponse.SERVING else HealthCheckResponse.ServingStatus.Name(status)


def read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


if __name__ == "__main__":
    sys.exit(main())
