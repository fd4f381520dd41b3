"""The `tandem` command: one file per subcommand. Imports nothing that computes: torch is for the workers."""

import typer

from cli.chaos.command import chaos
from cli.chat import chat
from cli.custody import custody
from cli.demo import demo
from cli.doctor.command import doctor
from cli.explain import explain
from cli.keys import keys
from cli.load.command import BenchCommand, bench
from cli.roles import add_roles
from cli.top import top
from cli.up import up

app = typer.Typer(
    name="tandem",
    help="Serve language models with separate prefill and decode workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(demo)
app.command()(chat)
app.command()(custody)
app.command()(explain)
app.command()(top)
app.command()(doctor)
app.add_typer(keys, name="keys")
app.command(cls=BenchCommand)(bench)
app.command()(chaos)
add_roles(app)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
