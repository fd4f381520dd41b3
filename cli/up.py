"""`tandem up`: every process on this machine, started, supervised and drained."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from cli.cores import check_ranks, divide_cores
from cli.deployment import Deployment, reachable
from cli.launch import launch, refusals
from cli.machine import take_ports
from cli.progress import Lossy
from cli.trust import PEM, anchor
from engine.exposure import check_guarded
from engine.source import Source, sources
from engine.tls import Tls
from frontend.mounts import FORM, NAMES, parse_mounts

QUESTION = "What is a KV cache?"
CLIENT_CERT, CLIENT_KEY = "client.pem", "client.key"
"""What a client's own files are called in the lines that show how to ask."""


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N")
    return value


def up(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODEL", help="Folder, or org/name to fetch; several, too. Default: the built-in demo model."
        ),
    ] = None,
    prefill: Annotated[int, typer.Option(min=0, help="Prefill workers of each model; 0 is a unified server.")] = 1,
    decode: Annotated[int, typer.Option(min=1, help="Decode workers of each model.")] = 1,
    prefill_tp: Annotated[
        int, typer.Option(min=1, help="Processes that each prefill worker spreads the model over.")
    ] = 1,
    decode_tp: Annotated[int, typer.Option(min=1, help="Of each decode worker, likewise; the two may differ.")] = 1,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="REST; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0 takes a free one.")] = 50051,
    mount: Annotated[
        list[str] | None,
        typer.Option(help=f"One dialect of REST by itself, as {FORM}; may be given again. {', '.join(NAMES)}."),
    ] = None,
    device: Annotated[
        str, typer.Option(callback=_device, help="cpu, cuda, cuda:N or auto; all workers share a GPU's memory.")
    ] = "cpu",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of weights and activations.")
    ] = "auto",
    quantization: Annotated[
        Literal["none", "int8", "fp8"], typer.Option(help="Of weights and activations; fp8 on a GPU only.")
    ] = "none",
    kv_cache_dtype: Annotated[
        Literal["auto", "float32", "float16", "int8", "fp8"],
        typer.Option(help="Of the KV cache, and of what moves; int8 on CPUs only, fp8 on GPUs only."),
    ] = "auto",
    served_model_name: Annotated[str | None, typer.Option(help="What requests call the model.")] = None,
    model_aliases: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]ALIAS,ALIAS", help="Other names of the model, or of the one named NAME."),
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=OTHER,OTHER", help="Who answers while no decode worker serves the model NAME."),
    ] = None,
    accept_any_model: Annotated[
        bool, typer.Option("--accept-any-model", help="A request for a model that is not there gets the first.")
    ] = False,
    unknown_parameters: Annotated[
        Literal["refuse", "ignore"], typer.Option(help="What becomes of parameters that nobody has, in OpenAI's JSON.")
    ] = "refuse",
    chat_template: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Jinja file, instead of the model's own.")
    ] = None,
    tool_parser: Annotated[
        Literal["auto", "none", "llama3", "hermes", "qwen3-coder", "mistral", "deepseek", "json"],
        typer.Option(help="How the model spells tool calls; auto asks its chat template."),
    ] = "auto",
    reasoning_parser: Annotated[
        Literal["auto", "none", "think", "mistral"],
        typer.Option(help="How the model marks reasoning; auto asks its chat template."),
    ] = "auto",
    embedding_pooling: Annotated[
        Literal["auto", "mean", "last"], typer.Option(help="How prompts become vectors; auto asks the model's folder.")
    ] = "auto",
    schemas: Annotated[
        str | None, typer.Option(help="Folders of JSON schemas for $ref, comma-separated: URI=FOLDER.")
    ] = None,
    block_tokens: Annotated[int | None, typer.Option(min=1, help="Positions per KV block.")] = None,
    kv_memory_mb: Annotated[int | None, typer.Option(min=1, help="KV pool of each worker, in MiB.")] = None,
    num_blocks: Annotated[int | None, typer.Option(min=1, help="KV blocks of each worker, instead.")] = None,
    max_context: Annotated[int | None, typer.Option(min=1, help="Longest sequence, in tokens.")] = None,
    max_sequences: Annotated[int | None, typer.Option(min=1, help="Requests on one worker at once.")] = None,
    max_step_tokens: Annotated[int | None, typer.Option(min=1, help="Prompt tokens per step.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of each worker; 0 is one per CPU it has.")] = 0,
    prefill_cpus: Annotated[
        str, typer.Option(help="CPUs of the prefill workers, like 0 or 0-3,6, shared out among them; default: all.")
    ] = "",
    decode_cpus: Annotated[str, typer.Option(help="CPUs of the decode workers, likewise.")] = "",
    frontend_cpus: Annotated[str, typer.Option(help="CPUs of the frontend.")] = "",
    cores: Annotated[
        Literal["shared", "split"],
        typer.Option(help="Split: each worker has CPUs of its own, where there are enough."),
    ] = "split",
    borrow: Annotated[
        Literal["none", "prefill", "decode", "both"] | None,
        typer.Option(help="Who uses the other role's CPUs while these have no work. Default: both, if split."),
    ] = None,
    transport: Annotated[Literal["shm", "ipc", "tcp", "gloo"], typer.Option(help="How KV blocks travel.")] = "shm",
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="Requests must carry it.")] = None,
    api_keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of keys, made by tandem keys api.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="TANDEM_TLS_CERT", help="PEM: serve REST and gRPC over TLS.", **PEM)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="TANDEM_TLS_KEY", help="PEM: the certificate's key.", **PEM)
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="TANDEM_TLS_CA", help="PEM: clients must show a certificate signed by it.", **PEM),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without asking for a key.")
    ] = False,
    cors_origins: Annotated[
        str | None, typer.Option(help="Origins whose pages may send requests, comma-separated; * for all.")
    ] = None,
    ttft_slo: Annotated[
        float | None, typer.Option(min=0.001, help="Refuse what is expected to have no first token in so many seconds.")
    ] = None,
    max_queued_requests: Annotated[int | None, typer.Option(min=1, help="That may wait for a worker.")] = None,
    max_queued_tokens: Annotated[int | None, typer.Option(min=1, help="Of their prompts, that may wait.")] = None,
    queue_timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds that a request may wait.")] = None,
    debug_custody: Annotated[
        bool, typer.Option("--debug-custody", help="Workers check every KV block after every step.")
    ] = False,
    otlp_endpoint: Annotated[str | None, typer.Option(help="Traces over gRPC, http://host:4317.")] = None,
    trace_sample_ratio: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of the traces that begin here, so many are exported.")
    ] = None,
    trace_slow_ttft: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of the others, those of requests that fail or have no first token in so many seconds."
        ),
    ] = None,
    trace_ui: Annotated[
        str | None, typer.Option(help="Where the console's links to traces lead: a Jaeger, http://host:16686.")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Of every process.")
    ] = "warning",
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Of every process's lines.")] = "text",
    drain_timeout: Annotated[float, typer.Option(min=0, help="Seconds that requests may take to end.")] = 60.0,
) -> None:
    """Serve a model, or several, on this machine: a frontend, prefill workers and decode workers.

    Of several models, the first is the default, and what says how to serve a model's text (its name, chat template,
    parsers and pooling) is about that one; what is said of workers holds for those of each.

    The first Ctrl-C or SIGTERM lets requests finish, the second leaves at once.
    """
    console = Console(file=Lossy(sys.stderr), highlight=False)  # type: ignore[arg-type] # what rich needs of a stream
    with refusals(console):
        ranks = {"prefill": prefill_tp, "decode": decode_tp}
        check_ranks(ranks, prefill, borrow)
        lists = {"prefill": prefill_cpus, "decode": decode_cpus, "frontend": frontend_cpus}
        models = sources(model or [], served_model_name or "")
        divided = divide_cores(
            lists,
            num_prefill=prefill * len(models),
            num_decode=decode * len(models),
            split=cores == "split",
            borrow=borrow,
        )
        guarded = api_key is not None or api_keys is not None or tls_ca is not None
        check_guarded(f"{host}:{http_port}", guarded=guarded, insecure=insecure, how="--api-key or --api-keys")
        trusted = _check_tls(tls_cert, tls_key, tls_ca, reachable(host))
        mounts = parse_mounts(mount or (), {http_port: "--http-port", grpc_port: "--grpc-port"})
        mount_ports = {f"--mount {each}": each.port for each in mounts if each.port is not None}
        ports = take_ports(host, {"--http-port": http_port, "--grpc-port": grpc_port, **mount_ports})
        mounts = tuple(replace(each, port=ports.get(f"--mount {each}")) for each in mounts)
        deployment = Deployment(
            host=host,
            http_port=ports["--http-port"],
            grpc_port=ports["--grpc-port"],
            mounts=mounts,
            prefill=prefill,
            decode=decode,
            models=_found(models),
            transport=transport,
            api_key=api_key,
            drain_timeout_s=drain_timeout,
            shared={
                "otlp_endpoint": otlp_endpoint,
                "log_level": log_level,
                "log_format": log_format,
            },
            worker={
                "device": device,
                "dtype": dtype,
                "quantization": quantization,
                "kv_cache_dtype": kv_cache_dtype,
                "block_tokens": block_tokens,
                "kv_memory_mb": kv_memory_mb,
                "num_blocks": num_blocks,
                "max_context": max_context,
                "max_sequences": max_sequences,
                "max_step_tokens": max_step_tokens,
                "threads": threads or divided.threads,
                "debug_custody": debug_custody or None,
            },
            frontend={
                "model_aliases": model_aliases,
                "fallback": fallback,
                "accept_any_model": accept_any_model or None,
                "unknown_parameters": unknown_parameters,
                "chat_template": chat_template,
                "tool_parser": tool_parser,
                "reasoning_parser": reasoning_parser,
                "embedding_pooling": embedding_pooling,
                "schemas": schemas,
                "ttft_slo_s": ttft_slo,
                "max_queued_requests": max_queued_requests,
                "max_queued_tokens": max_queued_tokens,
                "queue_timeout_s": queue_timeout,
                "api_keys": api_keys and api_keys.absolute(),
                # Not resolved: who renews a certificate may do it by pointing a link at another file.
                "tls_cert": tls_cert and tls_cert.absolute(),
                "tls_key": tls_key and tls_key.absolute(),
                "tls_ca": tls_ca and tls_ca.absolute(),
                "insecure": insecure or None,
                "cors_origins": cors_origins,
                "trace_sample_ratio": trace_sample_ratio,
                "trace_slow_ttft_s": trace_slow_ttft,
                "trace_ui": trace_ui,
            },
            cpus=divided.cpus,
            borrowers=[role for role in divided.borrowers if ranks[role] == 1],
            ranks=ranks,
        )
        status = launch(deployment, console, lambda _: _announce(deployment, trusted))
    raise typer.Exit(status)


def _found(models: list[Source]) -> list[Source]:
    """Find them before anything starts: one download instead of one per process, and one message if it fails."""
    from engine.hub import resolve_model  # a quarter of a second that no other command needs

    return [Source(each.name, str(resolve_model(each.place).resolve()) if each.place else "") for each in models]


def _check_tls(cert: Path | None, key: Path | None, ca: Path | None, host: str) -> Path | None:
    """The file by which a client on this machine believes the server; None: by the system's list, or there is no TLS.
    Raises ConfigError."""
    if Tls.of(str(cert or ""), str(key or ""), str(ca or "")) is None or cert is None or key is None:
        return None
    found = anchor(cert, key, host, (None, ca, cert))
    return found and found.absolute()


async def _announce(deployment: Deployment, trusted: Path | None) -> None:
    """Say that requests are served, for a person and for a program that waits for the line."""
    name = deployment.models[0].name
    print(f"ready {deployment.http_url} {deployment.grpc_url}")
    for mount in deployment.mounts:
        print(f"{mount.dialect} {deployment.url_of(mount)}")
    print(_curl(deployment, name, trusted))
    print(_python(deployment, name, trusted), flush=True)


def _curl(deployment: Deployment, name: str, trusted: Path | None) -> str:
    body = {"model": name, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    ca = f" --cacert {shlex.quote(str(trusted))}" if trusted else ""
    own = f" --cert {CLIENT_CERT} --key {CLIENT_KEY}" if deployment.asks_for_certificates else ""
    key = ' -H "Authorization: Bearer $TANDEM_API_KEY"' if deployment.needs_key else ""
    url = f"{deployment.http_url}/v1/chat/completions"
    return f"curl -N {url}{ca}{own}{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def _python(deployment: Deployment, name: str, trusted: Path | None) -> str:
    key = 'os.environ["TANDEM_API_KEY"]' if deployment.needs_key else '"none"'
    imports = "import os; from openai import OpenAI" if deployment.needs_key else "from openai import OpenAI"
    http = ""
    if trusted or deployment.asks_for_certificates:
        cafile = f"cafile={json.dumps(str(trusted))}" if trusted else ""
        own = f'; tls.load_cert_chain("{CLIENT_CERT}", "{CLIENT_KEY}")' if deployment.asks_for_certificates else ""
        imports += f", DefaultHttpxClient; import ssl; tls = ssl.create_default_context({cafile}){own}"
        http = ", http_client=DefaultHttpxClient(verify=tls)"
    client = f'OpenAI(base_url="{deployment.http_url}/v1", api_key={key}{http})'
    arguments = f"model={json.dumps(name)}, messages={json.dumps([{'role': 'user', 'content': QUESTION}])}"
    return f"{imports}; print({client}.chat.completions.create({arguments}).choices[0].message.content)"
