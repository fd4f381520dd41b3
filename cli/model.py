"""Turns what the user calls a model into a folder on this machine, before any process starts."""

import re
from pathlib import Path

from engine.errors import ConfigError

FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""Of a hub's repository, what serving needs: no second copy of the weights in another format."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(model: str) -> str:
    """The folder of `model`, fetched first when it names a repository of the hub. Raises ConfigError."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} is not a model folder: it has no config.json")
        return str(folder.resolve())
    if folder.exists():
        raise ConfigError(f"{folder} is a file; a model is a folder with config.json and *.safetensors")
    if not is_hub_name(model):
        raise ConfigError(f"model folder {folder} does not exist")
    return _fetch(model)


def is_hub_name(model: str) -> bool:
    """Whether `model` is org/name, and no folder of that name is here."""
    looks_it = not model.startswith((".", "/", "~")) and HUB_NAME.fullmatch(model) is not None
    return looks_it and not Path(model).exists()


def _fetch(model: str) -> str:
    # Takes a third of a second to import, and only this case needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(model, allow_patterns=FILES)
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"{model} is neither a folder nor in the local cache, and the hub is not reachable"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(f"cannot fetch {model}: {error}") from error
