"""Runs clients that others made against one real `tandem up`, each in an environment of its own: `make test-clients`.

    python -m tests.clients.run                  all of them
    python -m tests.clients.run openai npm       some
    python -m tests.clients.run --install        only installs

The server has the demonstration model, with a chat template that knows tools. Schemathesis has one of its own with a
short context, as what it sends seldom says how long the answer shall be. What one client finds does not keep the others
from running; the exit status is 1 if any failed.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.clients.environments import HERE, INSTALLED, REQUIREMENTS, ROOT, node, venv
from tests.e2e.server import Tandem, tandem

ALIAS = "tandem-too"
"""Another name of the model, for clients that change it from one request to the next."""
NPM = "npm"
SCHEMATHESIS = "schemathesis"
CLIENTS = (*sorted(pins.stem for pins in REQUIREMENTS.glob("*.txt")), NPM)


def command(name: str, server: Tandem) -> Sequence[str | Path]:
    """That runs the tests of a client. Raises what installing it raises."""
    if name == NPM:
        return ["node", "--test", *sorted(node().glob("*.test.mjs"))]
    programs = venv(name)
    if name == SCHEMATHESIS:
        settings = HERE / "schemathesis.toml"
        return [programs / name, "--config-file", settings, "run", f"{server.http}/openapi.json"]
    return [programs / "python", "-m", "pytest", "-c", HERE / "pytest.ini", HERE / f"with_{name}.py"]


def environment(server: Tandem) -> Mapping[str, str]:
    """Nothing of ours but where the server is: a client has its own packages, and talks to this machine alone."""
    ours = {"PYTHONPATH", "PYTEST_ADDOPTS"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours and "proxy" not in name.lower()}
    proto = str(ROOT / "protos" / "generate.proto")
    where = {"TANDEM_HTTP": server.http, "TANDEM_GRPC": server.grpc, "TANDEM_PROTO": proto}
    return {**inherited, **where, "TANDEM_ALIAS": ALIAS}


def run(names: Sequence[str], options: Sequence[str]) -> list[str]:
    """Run the tests of these clients against one server; names those that failed."""
    failed = []
    with tandem("--chat-template", str(HERE / "chat_template.jinja"), "--model-aliases", ALIAS, *options) as server:
        for name in names:
            sys.stdout.write(f"-- {name}\n")
            sys.stdout.flush()
            if subprocess.run(
                command(name, server), env=environment(server), cwd=INSTALLED / name, check=False
            ).returncode:
                failed.append(name)
    return failed


def main(arguments: Sequence[str]) -> int:
    names = [name for name in arguments if name != "--install"] or list(CLIENTS)
    if unknown := sorted(set(names) - set(CLIENTS)):
        sys.exit(f"no such client: {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    for name in names:
        node() if name == NPM else venv(name)
    if "--install" in arguments:
        return 0
    failed = []
    for chosen, options in (
        ([n for n in names if n != SCHEMATHESIS], ()),
        ([SCHEMATHESIS], ("--max-context", "32", "--accept-any-model")),
    ):
        if set(chosen) & set(names):
            failed += run(chosen, options)
    sys.stdout.write(f"{len(names) - len(failed)} passed, {len(failed)} failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
