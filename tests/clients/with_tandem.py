"""clients/python as it is installed: alone, with nothing of the server's beside it; and its examples."""

import asyncio
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from served import ANSWER, GRPC, QUESTION

from tandem_client import AsyncClient, Client, InvalidRequest, chat, text

EXAMPLES = Path(__file__).resolve().parents[2] / "clients" / "python" / "examples"


def test_it_stands_alone() -> None:
    wanted = importlib.metadata.requires("tandem-client") or []
    assert sorted(re.split("[<>]", name)[0] for name in wanted) == ["grpcio", "protobuf"]
    assert importlib.util.find_spec("protos") is None
    assert importlib.util.find_spec("google.rpc") is None


def test_an_answer() -> None:
    with Client(GRPC) as client:
        assert client.generate(chat(QUESTION, temperature=0)).text == ANSWER
        with client.stream(chat(QUESTION, temperature=0)) as stream:
            assert "".join(delta.text for delta in stream) == ANSWER
        with pytest.raises(InvalidRequest) as failure:
            client.generate(text("x", temperature=9.0))
        assert failure.value.field == "sampling.temperature"


async def _asked() -> str:
    async with AsyncClient(GRPC) as client:
        return (await client.generate(chat(QUESTION, temperature=0))).text


def test_asyncio() -> None:
    assert asyncio.run(_asked()) == ANSWER


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples(example: Path) -> None:
    done = subprocess.run([sys.executable, example, GRPC], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
