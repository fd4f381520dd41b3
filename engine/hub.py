"""Finds the folder of a model: a path as it is, or a name on the Hugging Face hub, downloaded once.

Import-light: no torch. Knows which files of a repository a text model needs.
"""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from engine.errors import ConfigError

DEMO_MODEL = Path(__file__).parent / "demo"
"""The built-in demonstration model."""

_PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]


def resolve_model(name_or_dir: str) -> Path:
    """The folder that `name_or_dir` means; what is not a folder must look like `organisation/name`. Empty: the demo."""
    if not name_or_dir:
        return DEMO_MODEL
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path
    if name_or_dir.count("/") != 1 or name_or_dir.startswith((".", "/", "~")):
        raise ConfigError(f"{name_or_dir} is neither a folder nor a name on the hub such as organisation/model")
    try:
        return Path(snapshot_download(name_or_dir, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"{name_or_dir} could not be downloaded from the hub: {error}") from error
