"""A process's options, once: a value, or a line for each that is wrong and the status that says so. Import-light."""

import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from engine.errors import USAGE_STATUS

Config = TypeVar("Config")


def parse_options(config: Callable[..., Config], role: str) -> Config:
    """From the command line and the environment. Ends the process where they make no sense."""
    try:
        return config(_cli_parse_args=True, _cli_prog_name=f"python -m {role}")
    except ValidationError as error:  # whose own words have the values, which may be keys
        for wrong in error.errors(include_url=False, include_input=False, include_context=False):
            option = "--" + "-".join(map(str, wrong["loc"])).replace("_", "-")
            print(f"{role}: {option}: {wrong['msg']}", file=sys.stderr)  # noqa: T201
    except SettingsError as error:
        print(f"{role}: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(USAGE_STATUS)
