"""clients/go: generated, compiled and run, with the gRPC for Go that Debian has. Skipped where that is not installed.

Debian's packages have no modules: they are found below GOPATH, as Go looked for everything once.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from served import ANSWER, GRPC, QUESTION

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "go"
PROTO = Path(os.environ["TANDEM_PROTO"])
LIBRARIES = Path("/usr/share/gocode")
TOOLS = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
DEBIAN = (
    "golang-go golang-google-genproto-dev golang-google-grpc-dev golang-google-protobuf-dev "
    "protobuf-compiler protoc-gen-go protoc-gen-go-grpc"
)
MODULE, GENERATED = "tandem-example", "tandem-example/tandempb"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needed = [LIBRARIES / "src" / "google.golang.org" / name for name in ("grpc", "genproto", "protobuf")]
    if not (all(map(shutil.which, TOOLS)) and all(folder.is_dir() for folder in needed)):
        pytest.skip(f"on Debian: apt-get install {DEBIAN}")
    made = tmp_path_factory.mktemp("go")
    source = made / "src" / MODULE
    shutil.copytree(CLIENT, source)
    languages = [
        option
        for language in ("go", "go-grpc")
        for option in (
            f"--{language}_out=.",
            f"--{language}_opt=module={MODULE}",
            f"--{language}_opt=Mprotos/generate.proto={GENERATED}",
        )
    ]
    subprocess.run(["protoc", f"-I{PROTO.parents[1]}", *languages, PROTO], cwd=source, check=True)
    own = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": f"{made}:{LIBRARIES}", "GOCACHE": str(Path.cwd() / "cache")}
    subprocess.run(["go", "vet", MODULE], env={**os.environ, **own}, check=True)
    subprocess.run(["go", "build", "-o", made / "ask", MODULE], env={**os.environ, **own}, check=True)
    return made / "ask"


def asked(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_an_answer(program: Path) -> None:
    done = asked(program, GRPC, QUESTION)
    assert (done.returncode, done.stderr) == (0, "")
    text, _, rest = done.stdout.partition("\n")
    assert text == ANSWER
    assert rest.endswith("tokens\n")


def test_an_error_is_told_with_its_reason(program: Path) -> None:
    done = asked(program, GRPC, "word " * 9000)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("InvalidArgument: ")
    assert "CONTEXT_LENGTH_EXCEEDED" in done.stderr
    gone = asked(program, "127.0.0.1:1")
    assert gone.stderr.startswith("Unavailable: ")
