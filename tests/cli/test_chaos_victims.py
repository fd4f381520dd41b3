"""Discovery, over a /proc of the test's own."""

import os
import sys
from pathlib import Path

import pytest

from cli.chaos.victims import Vitals, check_platform, find_server, vitals, workers
from engine.errors import ConfigError

UP, FRONTEND, PREFILL, DECODE = 100, 101, 102, 103
TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Proc:
    """As much of /proc as is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "net").mkdir()
        (folder / "net" / "tcp").write_text(TCP)
        (folder / "self").mkdir()

    def process(self, pid: int, parent: int, *command: str, sockets: tuple[str, ...] = (), rss_kib: int = 2048) -> None:
        process = self.folder / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "cmdline").write_text("".join(f"{word}\0" for word in command))
        (process / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nVmRSS:\t {rss_kib} kB\nThreads:\t3\n")
        for number, inode in enumerate(sockets):
            os.symlink(f"socket:[{inode}]", process / "fd" / str(number))

    def listens(self, port: int, inode: str, state: str = "0A") -> None:
        line = (
            f"   0: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0"
        )
        with (self.folder / "net" / "tcp").open("a") as table:
            table.write(line + "\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """A `tandem up` on port 8000, and somebody else's decode worker."""
    made = Proc(tmp_path)
    made.process(1, 0, "init")
    made.process(UP, 1, "python", "-m", "cli", "up")
    frontend = ("python", "-P", "-m", "frontend", "--http-port", "8000", "--grpc-port", "50051")
    made.process(FRONTEND, UP, *frontend, sockets=("7", "77"))
    made.process(PREFILL, UP, "python", "-P", "-m", "prefill", "--worker-id", "prefill-0")
    made.process(DECODE, UP, "python", "-P", "-m", "decode", "--worker-id", "decode-0", sockets=("8",))
    made.process(200, 1, "python", "-P", "-m", "decode", "--worker-id", "decode-0")
    made.process(201, UP, "python", "-c", "something else")
    made.listens(8000, "77")
    return made


def test_a_server_is_found_by_who_listens(proc: Proc) -> None:
    found = find_server("http://127.0.0.1:8000", proc.folder)
    assert (found.up_pid, found.frontend_pid, found.grpc_address) == (UP, FRONTEND, "127.0.0.1:50051")


def test_its_workers_are_its_own_children_with_a_name(proc: Proc) -> None:
    found = workers(UP, proc.folder)
    assert {name: (worker.role, worker.pid) for name, worker in found.items()} == {
        "prefill-0": ("prefill", PREFILL),
        "decode-0": ("decode", DECODE),
    }


def refusal(url: str, proc: Proc) -> str:
    with pytest.raises(ConfigError) as refused:
        find_server(url, proc.folder)
    assert refused.value.field == "--url"
    return refused.value.message


def test_a_port_where_nobody_of_ours_listens_is_refused(proc: Proc) -> None:
    assert "no process of ours listens on port 8001" in refusal("http://127.0.0.1:8001", proc)
    proc.listens(8002, "555")  # somebody whose files cannot be seen
    assert "no process of ours listens on port 8002" in refusal("http://127.0.0.1:8002", proc)
    proc.listens(8003, "77", state="01")  # connected, not listening
    assert "no process of ours listens on port 8003" in refusal("http://127.0.0.1:8003", proc)


def test_a_server_that_nobody_would_start_again_is_refused(proc: Proc) -> None:
    proc.process(300, 1, "python", "-P", "-m", "frontend", "--grpc-port", "1", sockets=("9",))
    proc.listens(9000, "9")
    assert "which tandem up did not start" in refusal("http://127.0.0.1:9000", proc)
    proc.listens(9001, "8")  # a worker's port
    assert "which tandem up did not start" in refusal("http://127.0.0.1:9001", proc)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://192.0.2.1:8000", "192.0.2.1 is not this machine's loopback"),
        ("https://127.0.0.1:8000", "is no http://HOST:PORT"),
        ("127.0.0.1:8000", "is no http://HOST:PORT"),
        ("http://127.0.0.1:99999", "Port out of range"),
    ],
)
def test_what_is_no_address_of_this_machine_is_refused(proc: Proc, url: str, told: str) -> None:
    assert told in refusal(url, proc)


def test_what_a_process_takes(proc: Proc) -> None:
    assert vitals(FRONTEND, proc.folder) == Vitals(rss_kib=2048, fds=2, threads=3)
    assert vitals(4242, proc.folder) is None


def test_a_process_that_ends_while_it_is_looked_at_is_not_there(proc: Proc) -> None:
    (proc.folder / str(DECODE) / "cmdline").unlink()
    (proc.folder / str(DECODE) / "status").write_text(f"Name:\tx\nPPid:\t{UP}\nThreads:\t1\n")  # a zombie has no memory
    assert sorted(workers(UP, proc.folder)) == ["prefill-0"]
    assert vitals(DECODE, proc.folder) is None


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="this is darwin"):
        check_platform()
