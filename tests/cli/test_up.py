"""`tandem up` and `tandem demo` as processes, over roles that need no model."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.cli.test_supervisor import ROOT, alive

FAKE_ROLE = "from tests.cli.fake_role import main; main({!r})"
ENTRY = "import cli.environment, pathlib, sys; cli.environment.ROOT = pathlib.Path(sys.argv.pop(1)); \
from cli.__main__ import main; main()"

pytestmark = pytest.mark.timeout(60)


class Running:
    """A `tandem` process, and what it has written so far."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", ENTRY, str(folder), *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.stdout + self.stderr
            time.sleep(0.01)

    def until_ready(self) -> None:
        self.until(lambda: "ready http" in self.stdout and self.stdout.count("\n") == 3)

    def ended(self) -> int:
        """Its exit status, once there is one."""
        return self._process.wait(timeout=20)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def pids(self, name: str = "") -> list[int]:
        """Of all processes (or those of one name) that it ever started."""
        return [int(pid) for pid in re.findall(rf"\[{name}.*\] pid (\d+)", self.stderr)]


Start = Callable[..., Running]


@pytest.fixture
def runtime_parent() -> Iterator[Path]:
    """Not in `tmp_path`, whose name may be too long for one of a socket in it."""
    with tempfile.TemporaryDirectory() as parent:
        yield Path(parent)


@pytest.fixture
def tandem(tmp_path: Path, runtime_parent: Path) -> Iterator[Start]:
    """Starts `tandem ARGUMENTS`, in which the roles are fake ones."""
    started: list[Running] = []
    for role in ("frontend", "prefill", "decode"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "__init__.py").touch()  # without it, the real package would go first
        (tmp_path / role / "__main__.py").write_text(FAKE_ROLE.format(role))

    def start(*arguments: str, **environment: str) -> Running:
        running = Running(list(arguments), {"XDG_RUNTIME_DIR": str(runtime_parent), **environment}, tmp_path)
        started.append(running)
        return running

    yield start
    for running in started:
        running.send(signal.SIGKILL)
        running.ended()


def up(tandem: Start, *arguments: str, **environment: str) -> Running:
    return tandem("up", "--http-port", "0", "--grpc-port", "0", *arguments, **environment)


def test_up_says_when_it_is_ready_and_drains_on_sigterm(tandem: Start, runtime_parent: Path) -> None:
    running = up(tandem, "--prefill", "2")
    running.until_ready()
    ready, curl, python = running.stdout.splitlines()
    assert re.fullmatch(r"ready http://127\.0\.0\.1:\d+ grpc://127\.0\.0\.1:\d+", ready)
    assert curl.startswith("curl ")
    assert "OpenAI(" in python
    (folder,) = runtime_parent.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"prefill-0.sock", "prefill-1.sock", "decode-0.sock"}

    running.send(signal.SIGTERM)
    assert running.ended() == 0, running.stderr
    assert "frontend: no decode worker yet" in running.stderr
    assert "decode-0: ready after" in running.stderr
    assert running.stderr.index("[frontend] frontend drained") < running.stderr.index("[decode-0] decode-0 drained")
    assert not list(runtime_parent.iterdir())
    assert not any(map(alive, running.pids()))


def test_up_serves_several_models(tandem: Start, tmp_path: Path, runtime_parent: Path) -> None:
    (tmp_path / "llama").mkdir()
    running = up(tandem, "--model", str(tmp_path / "llama"), "--model", "demo=", "--fallback", "llama=demo")
    running.until_ready()
    sockets = {path.name for path in next(runtime_parent.iterdir()).iterdir()}
    assert sockets == {f"{role}-{number}.sock" for role in ("prefill", "decode") for number in range(2)}
    names = ("decode-0", "decode-1", "frontend")
    commands = {name: Path(f"/proc/{running.pids(name)[0]}/cmdline").read_text().split("\0") for name in names}
    for name, model in (("decode-0", "llama"), ("decode-1", "demo"), ("frontend", None)):
        given = dict(zip(commands[name], commands[name][1:], strict=False))
        assert given.get("--served-model-name") == model
    frontend = commands["frontend"]
    assert [b for a, b in zip(frontend, frontend[1:], strict=False) if a == "--model"] == [
        f"llama={tmp_path / 'llama'}",
        "demo=",
    ]
    assert frontend[frontend.index("--fallback") + 1] == "llama=demo"
    assert '"model": "llama"' in running.stdout
    running.send(signal.SIGTERM)
    assert running.ended() == 0, running.stderr


def test_two_models_of_one_name_are_refused_before_anything_starts(tandem: Start, tmp_path: Path) -> None:
    running = up(tandem, "--model", "m=", "--model", "m=")
    assert running.ended() == 1
    assert running.stderr == "tandem: two models are called 'm': name one with --model NAME=FOLDER\n"


def test_up_brings_a_killed_worker_back_at_the_same_address(tandem: Start, runtime_parent: Path) -> None:
    running = up(tandem)
    running.until_ready()
    os.kill(*running.pids("decode-0"), signal.SIGKILL)
    running.until(lambda: running.stderr.count("decode-0: ready") == 2)
    assert "decode-0: was ended by SIGKILL; starts again in 0.5 s" in running.stderr
    assert list(runtime_parent.glob("*/decode-0.sock"))
    running.send(signal.SIGINT)
    assert running.ended() == 0, running.stderr


def test_killing_up_leaves_nothing_running(tandem: Start) -> None:
    running = up(tandem)
    running.until_ready()
    assert len(running.pids()) == 3
    assert all(map(alive, running.pids()))
    running.send(signal.SIGKILL)
    running.until(lambda: not any(map(alive, running.pids())))


def test_a_key_is_wanted_and_never_on_a_command_line(tandem: Start) -> None:
    running = up(tandem, TANDEM_API_KEY="secret-key")
    running.until_ready()
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in running.pids()]
    assert not any("secret-key" in line for line in lines)
    running.send(signal.SIGTERM)
    assert running.ended() == 0, running.stderr
    assert "$TANDEM_API_KEY" in running.stdout
    assert "secret-key" not in running.stdout + running.stderr


def test_with_tls_the_lines_say_whom_to_believe(tandem: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    own = authority.issue("server")
    running = up(tandem, "--tls-cert", own.cert, "--tls-key", own.key, "--tls-ca", authority.cert)
    running.until_ready()
    ready, curl, python = running.stdout.splitlines()
    assert re.fullmatch(r"ready https://127\.0\.0\.1:\d+ grpcs://127\.0\.0\.1:\d+", ready)
    assert f" --cacert {authority.cert} --cert client.pem --key client.key " in curl
    assert f'cafile="{authority.cert}"' in python
    assert 'load_cert_chain("client.pem", "client.key")' in python
    compile(python, "announced", "exec")
    running.send(signal.SIGTERM)
    assert running.ended() == 0, running.stderr


def test_certificates_that_do_not_fit_are_named_before_anything_starts(tandem: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    own, other = authority.issue("server"), authority.issue("other")
    running = up(tandem, "--tls-cert", own.cert, "--tls-key", other.key)
    assert running.ended() == 1
    assert running.stderr.startswith(f"tandem: cannot use {own.cert}, {other.key}: ")


def test_demo_shows_an_answer_and_its_ledger_and_stops(tandem: Start, runtime_parent: Path) -> None:
    running = tandem("demo")
    assert running.ended() == 0, running.stderr
    assert "What is a KV cache?" in running.stdout
    assert "Keys and values." in running.stdout
    assert "time to first token" in running.stdout
    assert not list(runtime_parent.iterdir())


def test_demo_that_gets_no_answer_fails(tandem: Start) -> None:
    running = tandem("demo", TANDEM_API_KEY="one that the demo does not know")
    assert running.ended() == 1
    assert "unauthenticated: the key is wrong" in running.stderr


def test_a_role_that_cannot_start_is_told_with_its_last_lines(tandem: Start, tmp_path: Path) -> None:
    (tmp_path / "decode" / "__main__.py").write_text("import sys; print('no such dtype'); sys.exit(2)")
    running = up(tandem)
    assert running.ended() == 1
    assert "tandem: decode-0 exited with status 2; its last lines:\n    no such dtype" in running.stderr
    assert not running.stdout


def test_a_port_in_use_is_named_before_anything_starts(tandem: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = tandem("up", "--grpc-port", str(port), "--http-port", "0")
        assert running.ended() == 1
    expected = f"cannot listen on port {port} of 127.0.0.1: Address already in use (choose another with --grpc-port)"
    assert running.stderr == f"tandem: {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--decode-cpus", "0-"), "--decode-cpus is '0-': '0-' is no CPU or range of CPUs; write 0 or 0-3 or 0,2-3"),
        (("--prefill-cpus", "4095"), "--prefill-cpus is '4095': CPU 4095 is not there for this process, which has "),
        (("--prefill-cpus", "0", "--prefill", "0"), "--prefill-cpus is given, but --prefill 0 starts no"),
    ],
)
def test_cpus_that_cannot_be_had_are_named_before_anything_starts(
    tandem: Start, arguments: tuple[str, ...], message: str
) -> None:
    running = up(tandem, *arguments)
    assert running.ended() == 1
    assert running.stderr.startswith(f"tandem: {message}")
    assert running.stderr.count("\n") == 1


def test_mounts_get_free_ports_and_are_told_after_the_ready_line(tandem: Start) -> None:
    running = up(tandem, "--mount", "ollama=:0", "--mount", "anthropic=/as/claude")
    running.until(lambda: running.stdout.count("\n") == 5)
    ready, first, second, *_ = running.stdout.splitlines()
    own = ready.split()[1]
    assert second == f"anthropic {own}/as/claude"
    name, url = first.split()
    assert name == "ollama"
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", url)
    assert url != own


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("gemini=:1", "--mount gemini=:1: there is no dialect 'gemini', but openai, "),
        ("ollama=:4711", "--mount ollama=:4711: port 4711 is that of --http-port"),
        ("ollama", "--mount ollama: it must be NAME=:PORT or NAME=/PREFIX"),
    ],
)
def test_a_mount_that_cannot_be_is_named_before_anything_starts(tandem: Start, mount: str, message: str) -> None:
    running = tandem("up", "--http-port", "4711", "--grpc-port", "0", "--mount", mount)
    assert running.ended() == 1
    assert running.stderr.startswith(f"tandem: {message}")
    assert running.stderr.count("\n") == 1


def test_a_model_that_is_not_there_is_named_before_anything_starts(tandem: Start) -> None:
    running = up(tandem, "--model", "./nowhere")
    assert running.ended() == 1
    assert running.stderr.startswith("tandem: ./nowhere is neither a folder nor a name on the hub")
    assert running.stderr.count("\n") == 1
