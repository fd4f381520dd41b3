"""`tandem doctor`: looks at everything that it can before, or beside, a server, and says what to change."""

import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console

from cli.doctor import checks, files, machine
from cli.doctor.findings import Finding, Level, failure
from cli.doctor.report import report
from cli.doctor.server import check_clocks, check_server, hear
from cli.launch import refusals
from cli.page import Frontend
from cli.trust import CaOption, CertOption, KeyOption, Trust
from engine.errors import ConfigError

PROJECT = "tandem-serve"
KV_MIB = 512
"""Of a worker's pool, unless it is told otherwise."""
WEIGHT_BYTES = {"none": 4, "int8": 1}
"""A weight, as a CPU keeps it."""


def doctor(
    model: Annotated[str, typer.Option(help="Folder, or org/name that was fetched. Default: the demo model.")] = "",
    prefill: Annotated[int, typer.Option(min=0, help="Workers on this machine.")] = 1,
    decode: Annotated[int, typer.Option(min=0, help="Workers on this machine.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What they are to compute on.")] = "cpu",
    quantization: Annotated[Literal["none", "int8"], typer.Option(help="Of weights on a CPU.")] = "none",
    kv_memory_mb: Annotated[int, typer.Option(min=1, help="KV pool of each worker, in MiB.")] = KV_MIB,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="REST; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0 takes a free one.")] = 50051,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM, as the server is given it.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM, as the server is given it.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM, as the server is given it.")] = None,
    api_keys: Annotated[Path | None, typer.Option(help="File of API keys, as the server is given it.")] = None,
    kv_key: Annotated[Path | None, typer.Option(help="CURVE key of a worker, as it is given it.")] = None,
    url: Annotated[str | None, typer.Option(help="Of a server that runs, to look at it as well, not at ports.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If that server wants one.")] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object for each thing looked at.")] = False,
) -> None:
    """Look at this machine, a model and a deployment, and say what to change.

    Exit status 1: something will not work.
    """
    from cli.doctor import links  # zmq, of which --help has no need

    with refusals(Console(stderr=True)):
        frontend = Frontend.checked(url, api_key, Trust(ca=ca, cert=cert, key=key)) if url else None
    num_workers = prefill + decode
    findings = [checks.check_python(platform.python_version()), *_packages()]
    findings.append(checks.check_cpu(machine.cpu()))
    findings += checks.check_cores(machine.cores(), max(num_workers, 1))
    on_gpu = device == "cuda"
    findings.append(checks.check_gpu(machine.gpu(), _installed().get("triton"), wanted=on_gpu))
    findings += checks.check_limits(machine.limits(), wants_groups=on_gpu)
    facts = _model(model)
    findings += facts.findings
    if facts.num_parameters and not on_gpu and num_workers:
        weights = facts.num_parameters * WEIGHT_BYTES[quantization]
        findings.append(checks.check_memory(machine.memory(), weights, kv_memory_mb << 20, num_workers))
    findings += links.check_links(links.measure(), facts.kv_bytes_per_token)
    if frontend is None:
        ports = [port for port in (http_port, grpc_port) if port]
        findings.append(checks.check_ports(host, machine.taken_ports(host, ports), ports))
    else:
        findings += _server(frontend)
    if tls_cert or tls_key:
        findings += _tls(tls_cert, tls_key, tls_ca)
    findings += files.check_api_keys(api_keys) if api_keys else ()
    findings += [files.check_private(kv_key, "a KV key")] if kv_key else []
    _tell(findings, as_json=as_json)
    raise typer.Exit(1 if any(finding.level is Level.FAILURE for finding in findings) else 0)


def _installed() -> dict[str, str]:
    return {each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions()}


def _packages() -> Iterator[Finding]:
    try:
        wanted = requires(PROJECT) or []
    except PackageNotFoundError:
        yield failure("packages", f"{PROJECT} is not installed here", "pip install it, or run make install")
        return
    yield from checks.check_packages(wanted, _installed())


def _model(name: str) -> files.ModelFacts:
    from engine.hub import resolve_model  # a quarter of a second that --help does not need

    try:
        return files.look_at_model(resolve_model(name))
    except ConfigError as error:
        return files.ModelFacts((failure("model", error.message, "a folder, or a name on the hub"),))


def _server(frontend: Frontend) -> Iterator[Finding]:
    try:
        heard = hear(frontend)
    except (OSError, ValueError) as error:
        yield failure("server", f"{frontend.url} does not say how it is: {error}", "start it, or give --api-key")
        return
    yield from check_server(heard)
    yield from check_clocks(heard)


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> Iterator[Finding]:
    if cert is None or key is None:
        missing = "--tls-cert" if cert is None else "--tls-key"
        yield failure("tls", "a certificate and its key go together", f"give {missing}, too")
        return
    yield from files.check_tls(cert, key, ca, time.time())


def _tell(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(findings).decode())
        return
    Console(highlight=False, soft_wrap=True).print(report(findings))
