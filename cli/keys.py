"""`tandem keys`: makes what the parts of a deployment know each other by."""

import json
import os
import secrets
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from engine.errors import ConfigError

keys = typer.Typer(
    help="Make keys: for those who send requests, and for workers that exchange KV.", no_args_is_help=True
)

PREFIX = "tandem-"
"""So that a key which is found somewhere it should not be can be told for what it is."""


@keys.command()
def api(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown where its limits are reached.")],
    file: Annotated[Path, typer.Option(help="Where the server reads keys (--api-keys); made if it is not there.")],
    tenant: Annotated[
        str | None, typer.Option(help="Keys of one tenant share a prefix cache. Default: the name.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="That may be asked; may be repeated. Default: all.")] = None,
    priority: Annotated[int, typer.Option(help="Who has the lowest goes first when requests wait.")] = 0,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.001)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(min=0.001, help="Of prompts and answers.")] = None,
) -> None:
    """Make an API key: shown once, and kept in FILE as its hash."""
    from frontend.callers import hash_of, read_keys  # noqa: PLC0415 - msgspec is not needed to show --help

    if file.exists():
        try:
            taken = {caller.name for caller in read_keys(file).values()}
        except ConfigError as error:
            _refuse(error.message)
        if name in taken:
            _refuse(f"{file} has a key of the name {name!r}")
    key = PREFIX + secrets.token_urlsafe(32)
    fields: dict[str, object] = {
        "name": name,
        "sha256": hash_of(key.encode()),
        "tenant": tenant,
        "models": model or None,
        "priority": priority or None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    # What JSON makes of a string, a number or a list of strings, TOML reads.
    lines = [f"{field} = {json.dumps(value)}" for field, value in fields.items() if value is not None]
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
            out.write("[[key]]\n" + "\n".join(lines) + "\n\n")
    except OSError as error:
        _refuse(f"cannot write {file}: {error.strerror}")
    typer.echo(key)


@keys.command()
def kv(
    file: Annotated[Path, typer.Argument(help="Where the secret key goes; it must not be there yet.")],
) -> None:
    """Make a worker's key for KV between hosts: the secret in FILE, the public key is shown.

    Give the worker --kv-key FILE, and the public keys of all workers, one a line, as --kv-peers to each of them.
    """
    from kvtransfer.curve import KeyPair  # noqa: PLC0415 - as above

    pair = KeyPair.make()
    try:
        pair.write(file)
    except OSError as error:
        _refuse(f"cannot write {file}: {error.strerror}")
    typer.echo(pair.public.decode())


def _refuse(message: str) -> NoReturn:
    typer.echo(f"tandem: {message}", err=True)
    raise typer.Exit(1)
