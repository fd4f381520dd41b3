"""`tandem chat`: a conversation in the terminal, over the public gRPC API."""

import sys
from typing import Annotated

import grpc
import typer
from rich.console import Console

from cli.client import Choices, Client, Message, Server, explain
from cli.launch import refusals
from cli.ledger import ledger
from cli.trust import CaOption, CertOption, KeyOption, Trust
from protos import generate_pb2 as pb


def chat(
    message: Annotated[str | None, typer.Argument(help="One question; without it, a conversation.")] = None,
    address: Annotated[str, typer.Option("--grpc", help="Of the frontend; grpcs://HOST:PORT if it has TLS.")] = (
        "127.0.0.1:50051"
    ),
    api_key: Annotated[str | None, typer.Option(envvar="TANDEM_API_KEY", help="If the server wants one.")] = None,
    system: Annotated[str | None, typer.Option(help="Instruction that opens the conversation.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. Default: the model's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of one answer.")] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Show where the time to the first token went.")] = False,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Talk to a running server."""
    opening = [Message("system", system)] if system else []
    choices = Choices(temperature=temperature, max_tokens=max_tokens)
    with refusals(Console(stderr=True)):
        server = Client(Server(address, api_key, Trust(ca=ca, cert=cert, key=key)))
    with server as client:
        conversation = Conversation(client, choices, opening, Console(highlight=False), timing=timing)
        if message is not None:
            raise typer.Exit(0 if conversation.ask(message) else 1)
        _converse(conversation)


class Conversation:
    """Messages so far; each question is asked with all that came before it."""

    def __init__(
        self, client: Client, choices: Choices, opening: list[Message], console: Console, *, timing: bool
    ) -> None:
        self._client = client
        self._choices = choices
        self._messages = opening
        self._console = console
        self._timing = timing

    def ask(self, question: str) -> bool:
        """Print the answer as it comes; False if it failed or was interrupted, and then it is not remembered."""
        asked = [*self._messages, Message("user", question)]
        try:
            answer = self._stream(asked)
        except grpc.RpcError as error:
            self._console.out()
            Console(stderr=True).print(f"tandem: {explain(error)}", style="red", markup=False, highlight=False)
            return False
        except KeyboardInterrupt:
            self._console.out("\n(interrupted)")
            return False
        self._messages = [*asked, Message("assistant", answer)]
        return True

    def _stream(self, messages: list[Message]) -> str:
        texts: list[str] = []
        finished = pb.Finished()
        for event in self._client.chat(messages, self._choices):
            if event.HasField("delta"):
                texts.append(event.delta.text)
                self._console.file.write(event.delta.text)
                self._console.file.flush()
            elif event.HasField("finished"):
                finished = event.finished
        self._console.out()
        if self._timing:
            self._console.print(ledger(finished))
        return "".join(texts)


def _converse(conversation: Conversation) -> None:
    """Ask what is typed, line by line, until the end of input."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  # line editing and history, by being imported; not on every platform

        print("An empty line or Ctrl-D ends the conversation.")
    while question := _typed():
        conversation.ask(question)


def _typed() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return ""
