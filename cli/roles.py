"""`tandem frontend | prefill | decode`: one role in this very process, for containers; same as `python -m ROLE`."""

import os

import typer

from cli.deployment import role_command
from cli.environment import child_environment

ROLES = {
    "frontend": "Take requests in gRPC and REST, and route them to workers.",
    "prefill": "Compute prompts, and send their KV blocks to decode workers.",
    "decode": "Generate tokens.",
}

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Even --help is the role's own."""


def add_roles(app: typer.Typer) -> None:
    for role, story in ROLES.items():
        app.command(
            role, help=f"{story} Options: tandem {role} --help", context_settings=PASS_ON, add_help_option=False
        )(_become)


def _become(context: typer.Context) -> None:
    """Give this process to the role: signals and exit status are then its own."""
    command = role_command(str(context.info_name))
    os.execve(command[0], [*command, *context.args], child_environment())
