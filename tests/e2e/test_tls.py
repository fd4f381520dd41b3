"""`tandem up` with certificates, by its own clients; and without, seen by nobody from outside."""

import re
import ssl
import subprocess
import sys
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import httpx
import psutil
import pytest

from engine.exposure import is_loopback
from tests.certificates import Authority
from tests.e2e.server import ROOT, Tandem, tandem

pytestmark = pytest.mark.slow

LISTENING = "0A"
"""The state of a socket in /proc/net/tcp."""


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_everybody_is_served_over_tls_and_asked_for_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    own, mine = authority.issue("server"), authority.issue("me")
    known = ssl.create_default_context(cafile=authority.cert)
    known.load_cert_chain(mine.cert, mine.key)
    certificates = ["--ca", authority.cert, "--cert", mine.cert, "--key", mine.key]
    with tandem("--tls-cert", own.cert, "--tls-key", own.key, "--tls-ca", authority.cert) as server:
        assert server.http.startswith("https://")
        assert httpx.get(f"{server.http}/ready", verify=known).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.http}/ready", verify=ssl.create_default_context(cafile=authority.cert))
        chat = command("chat", "--grpc", server.grpc, *certificates, "--temperature", "0", "What is prefill?")
        assert chat.returncode == 0, chat.stderr
        assert "prefill" in chat.stdout.lower()
        assert command("chat", "--grpc", server.grpc, "--ca", authority.cert, "Hello").returncode == 1
        custody = command("custody", "--url", server.http, *certificates)
        assert "decode-0" in custody.stdout, custody.stderr
        bench = command("bench", server.http, *certificates, "--num-prompts", "2", "--input-len", "8")
        assert bench.returncode == 0, bench.stderr
        python = (server.log.with_suffix(".stdout")).read_text().splitlines()[2]
        asked = python.replace('"client.pem"', repr(mine.cert)).replace('"client.key"', repr(mine.key))
        answered = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
        assert answered.stdout.strip(), answered.stderr


def test_nobody_from_outside_reaches_a_default_server(demo: Tandem) -> None:
    tree = [demo.process.pid, *(child.pid for child in psutil.Process(demo.process.pid).children(recursive=True))]
    addresses = [address for pid in tree for address in listening(pid)]
    assert len(addresses) >= 2, "REST and gRPC listen"
    assert all(map(is_loopback, addresses)), addresses


def listening(pid: int) -> list[str]:
    """The addresses on which a process's TCP sockets listen, as the kernel has them."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    inodes = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [
        row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return [address_of(row[1]) for row in rows if row[3] == LISTENING and row[9] in inodes]


def address_of(hexadecimal: str) -> str:
    """Of words in the host's byte order, in front of a port."""
    digits = hexadecimal.partition(":")[0]
    words = [bytes.fromhex(digits[i : i + 8])[:: 1 if sys.byteorder == "big" else -1] for i in range(0, len(digits), 8)]
    address = ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None  # gRPC's sockets speak both
    return str(mapped or address)
